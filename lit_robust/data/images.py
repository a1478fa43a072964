"""Labelled images in memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lit_robust.errors import UserError


@dataclass(frozen=True, eq=False)
class Images:
    """The images of a training or test set, with their labels.

    Args:
        x: Images (N, C, H, W), uint8.
        y: Labels (N,), int64, positions in `classes`.
        classes: Names of the classes.

    Raises:
        UserError: If the tensors have other shapes or types, or a label has no class.
    """

    x: Tensor
    y: Tensor
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.x.dtype != torch.uint8 or self.x.ndim != 4:
            raise UserError(f"expected images (N, C, H, W) of uint8, got {tuple(self.x.shape)} of {self.x.dtype}")
        if self.y.dtype != torch.int64 or self.y.shape != self.x.shape[:1]:
            raise UserError(f"expected {len(self.x)} labels of int64, got {tuple(self.y.shape)} of {self.y.dtype}")
        if len(self) and not 0 <= int(self.y.min()) <= int(self.y.max()) < len(self.classes):
            raise UserError(
                f"expected labels from 0 to {len(self.classes) - 1}, one a class, "
                f"got {int(self.y.min())} to {int(self.y.max())}"
            )

    def __len__(self) -> int:
        return len(self.x)
