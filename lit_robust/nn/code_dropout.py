"""Dropout of a sparse code, in evaluation too."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lit_robust import sampling
from lit_robust.backward import SurrogateLayer, replace_gradient
from lit_robust.errors import UserError


class CodeDropout(SurrogateLayer):
    """Sets each entry to 0 with probability p, in training and in evaluation alike (dissertation, section 4.2.2).

    Survivors are not scaled. Inside `sampling.keyed` the noise belongs to the samples; outside it comes from torch's
    generator. What is drawn are the distances between survivors, which are geometrically distributed: one number a
    survivor instead of one an entry.

    Its backward passes: `mask`, where the gradient goes to the survivors, and `identity`, where it goes to all.

    Args:
        p: Probability that an entry becomes 0, in [0, 1).
        backward: Backward pass in force: mask or identity.

    Raises:
        UserError: If `p` is outside [0, 1).
    """

    offered = ("mask", "identity")

    def __init__(self, p: float, *, backward: str | None = None) -> None:
        super().__init__(backward=backward)
        if not 0 <= p < 1:
            raise UserError(f"expected p of CodeDropout, the share of entries that become 0, in [0, 1), got {p}")
        self.p = p

    def forward(self, z: Tensor) -> Tensor:
        """Entries with zeros, of the same shape.

        Args:
            z: Any tensor whose first dimension is the batch, (N, ...).
        """
        keep = torch.zeros(z.numel(), dtype=torch.bool, device=z.device)
        keep[self.survivors(z)] = True
        dropped = ~keep.view(z.shape)
        if self.kind == "identity":
            return replace_gradient(z.detach().masked_fill(dropped, 0), z)
        return z.masked_fill(dropped, 0)

    def survivors(self, z: Tensor) -> Tensor:
        """Draws which entries stay.

        Under a key, a sample's first M survivors are the same for any larger number of entries a sample.

        Args:
            z: Any tensor whose first dimension is the batch, (N, ...); only its shape and device matter.

        Returns:
            Positions in `z.flatten()`, ascending, (M,) int64.
        """
        n, size = len(z), z[:1].numel()
        if self.p == 0:
            return torch.arange(n * size, device=z.device)
        expected = size * (1 - self.p)
        # So many gaps that they end before the last entry less than once in 1e20 samples.
        count = min(size, math.ceil(expected + 10 * math.sqrt(expected * self.p)) + 20)
        # In float64, where the device has it, so that a last-bit difference between logarithms is rounded away.
        wide = torch.float32 if z.device.type == "mps" else torch.float64
        uniform = sampling.layer_uniform(torch.empty(n, count, dtype=wide, device=z.device))
        gaps = (torch.log1p(-uniform) / math.log(self.p)).clamp(max=size).long()
        place = (gaps + 1).cumsum(1) - 1
        own = torch.arange(n, device=z.device)[:, None] * size
        return (place + own)[place < size]

    def extra_repr(self) -> str:
        """The settings, for `print(model)`."""
        return f"p={self.p}, backward={self.backward_pass!r}"
