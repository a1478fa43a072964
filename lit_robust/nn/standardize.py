"""Per-channel standardisation as a layer, so that every image outside the model is in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lit_robust.errors import UserError


class Standardize(nn.Module):
    """(x − mean) / std for each channel, with the statistics of the training images.

    Args:
        mean: Mean of each channel, in units of the [0, 1] pixel range.
        std: Standard deviation of each channel, in the same units; above 0.

    Raises:
        UserError: If the two differ in length, are empty, or a standard deviation is not above 0.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or not len(mean):
            raise UserError(f"expected one mean and one std a channel, got {len(mean)} and {len(std)} values")
        if not all(value > 0 for value in std):
            raise UserError(f"expected every std to be above 0, got {list(std)}")
        self.register_buffer("mean", torch.tensor(list(mean), dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(list(std), dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Standardised images (N, C, H, W).

        Args:
            x: Images (N, C, H, W) in [0, 1].

        Raises:
            UserError: If the images have other channels than the statistics.
        """
        if x.ndim != 4 or x.shape[1] != self.mean.shape[1]:
            channels = self.mean.shape[1]
            raise UserError(
                f"Standardize has mean and std for {channels} channels and expected images (N, {channels}, H, W), "
                f"got {tuple(x.shape)}; give one mean and one std a channel"
            )
        return (x - self.mean) / self.std

    def extra_repr(self) -> str:
        """The statistics, for `print(model)`."""
        if self.mean.is_meta:
            return f"channels={self.mean.shape[1]}"
        mean, std = ([round(value, 4) for value in buffer.flatten().tolist()] for buffer in (self.mean, self.std))
        return f"mean={mean}, std={std}"
