"""The Hebbian/anti-Hebbian cost of a layer: strong activations grow, the others shrink."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from lit_robust.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Hebbian:
    """The cost −α · L of one layer (dissertation, Eqs. 5.4 and 5.5).

    L is the mean of the K largest of N channels' activations minus λ times the mean of the other N − K, averaged over
    locations and images.

    Args:
        alpha: α, 0 or more.
        lam: λ, 0 or more.
        fraction: K is this fraction of N, rounded up.

    Raises:
        UserError: If a number is outside its range.
    """

    alpha: float
    lam: float = 1.0
    fraction: float = 0.1

    def __post_init__(self) -> None:
        if not self.alpha >= 0:
            raise UserError(f"expected alpha of the Hebbian cost to be 0 or more, got {self.alpha}")
        if not self.lam >= 0:
            raise UserError(f"expected lambda of the Hebbian cost to be 0 or more, got {self.lam}")
        if not 0 < self.fraction < 1:
            raise UserError(f"expected the fraction of strong channels between 0 and 1, got {self.fraction}")

    def strong(self, channels: int) -> int:
        """K for a layer of N channels.

        Raises:
            UserError: If it is not in 1 … N − 1.
        """
        k = ceil(round(self.fraction * channels, 9))
        if not 1 <= k <= channels - 1:
            raise UserError(
                f"{self.fraction:g} of {channels} channels, rounded up, is K = {k}; the Hebbian cost needs K from 1 to "
                f"{channels - 1}: set another fraction or a larger width"
            )
        return k

    def cost(self, y: Tensor) -> Tensor:
        """The cost of activations after a ReLU, (N, C, H, W), as a 0-d tensor that can be differentiated."""
        value, _ = self.cost_and_strongest(y)
        return value

    def cost_and_strongest(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The cost, and the channels of the K largest activations at each location, (N, K, H, W)."""
        channels = y.shape[1]
        k = self.strong(channels)
        top = y.topk(k, dim=1, sorted=False)
        wide = torch.promote_types(y.dtype, torch.float32)  # sums of a batch do not fit into 16 bits
        strong = top.values.sum(dtype=wide)
        rest = y.sum(dtype=wide) - strong
        locations = y.numel() // channels
        mean = strong / (k * locations) - self.lam * rest / ((channels - k) * locations)
        return -self.alpha * mean, top.indices

    def add_gradient(self, grad: Tensor, strongest: Tensor, scale: Tensor) -> Tensor:
        """A gradient plus `scale` times that of the cost, in activations after a ReLU that are all above 0.

        Args:
            grad: Gradient of something else, (N, C, H, W); it stays as it is.
            strongest: What `cost_and_strongest` gave for the activations.
            scale: Gradient of the loss in the cost, 0-d.
        """
        channels, k = grad.shape[1], strongest.shape[1]
        locations = grad.numel() // channels
        up = -self.alpha / (k * locations)
        down = self.alpha * self.lam / ((channels - k) * locations)
        difference = ((up - down) * scale).to(grad.dtype).expand(strongest.shape)
        return (grad + (down * scale).to(grad.dtype)).scatter_add_(1, strongest, difference)
