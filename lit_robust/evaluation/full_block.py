"""A block of samples that is always computed in one shape, since kernels round differently at other batch sizes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lit_robust.sampling import CHECK, Noise


@dataclass(frozen=True)
class FullBlock:
    """A network and the block of samples that it is measured on.

    Attributes:
        network: Images in [0, 1] to logits, in eval mode.
        x: Images in [0, 1], (N, C, H, W) with N ≤ `size`.
        y: Labels, (N,).
        index: Positions in the data set, (N,).
        noise: Random streams of the samples.
        size: Samples of a full block.
    """

    network: nn.Module
    x: Tensor
    y: Tensor
    index: Tensor
    noise: Noise
    size: int

    @property
    def rows(self) -> Tensor:
        """Rows of a full block, (size,): a short block is filled up with its own samples."""
        return torch.arange(self.size, device=self.x.device) % len(self.x)

    def logits(self, x: Tensor, step: int = CHECK, draw: int = 0) -> Tensor:
        """Logits (N, classes) of images (N, C, H, W), without a graph and in the shape of a full block.

        Inside `Taps` the taps hold `size` rows, of which the first N are the block's.
        """
        rows = self.rows
        with torch.no_grad(), self.noise.rows(rows).keyed(step, draw):
            logits: Tensor = self.network(x[rows])
        return logits[: len(x)]
