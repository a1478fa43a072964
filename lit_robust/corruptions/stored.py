"""What all corruptions share: images of 256 levels in, images of 256 levels out, whatever the batch and its size."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor

from lit_robust.errors import UserError
from lit_robust.sampling import Noise

Corrupt = Callable[[Tensor, int, Noise], Tensor]
SEVERITIES = (1, 2, 3, 4, 5)
_SIDE = 32  # pixels of the images that the published lengths are for
_CHUNK = 2**19  # entries that are computed at a time; more leave the processor's cache


def stored(corrupt: Corrupt) -> Corrupt:
    """A corruption of images as they are stored, with 256 levels, before and after.

    Entries are rounded to the nearest level before, which changes nothing in images that were read from bytes, and
    clamped to [0, 1] and rounded to the nearest level after. (The published files were cut off to the level below,
    which is darker by half a level on average.) Images are computed in float32, a few at a time.

    Args:
        corrupt: The corruption of images (N, C, H, W) in [0, 1]; its result may lie outside [0, 1].

    Returns:
        The same for images of any floating-point type; it raises `UserError` for a severity outside 1 to 5, images
        that are not (N, 1, H, W) or (N, 3, H, W), and noise of other samples.
    """

    @wraps(corrupt)
    @torch.no_grad()
    def corrupted(x: Tensor, severity: int, noise: Noise) -> Tensor:
        _check(x, severity, noise)
        count = max(1, _CHUNK // max(1, x[:1].numel()))
        parts = []
        for rows in torch.split(torch.arange(len(x), device=x.device), count):
            clean = (x[rows].float() * 255).round() / 255
            found = corrupt(clean, severity, noise.rows(rows))
            parts.append((found.clamp(0, 1) * 255).round().to(x.dtype) / x.new_full((), 255))
        return torch.cat(parts) if parts else x.clone()

    return corrupted


def relative_side(x: Tensor) -> float:
    """The shorter side of images (N, C, H, W) in units of 32 pixels, by which published lengths are multiplied."""
    return min(x.shape[2:]) / _SIDE


def coarse_size(x: Tensor) -> tuple[int, int]:
    """Height and width of images of the same proportions, whose shorter side has 32 pixels."""
    side = relative_side(x)
    return round(x.shape[2] / side), round(x.shape[3] / side)


def _check(x: Tensor, severity: int, noise: Noise) -> None:
    if severity not in SEVERITIES:
        raise UserError(f"expected a severity from 1 to 5, got {severity}")
    if x.ndim != 4 or x.shape[1] not in (1, 3) or not x.is_floating_point():
        raise UserError(f"expected images (N, 1 or 3, H, W) in [0, 1], got {tuple(x.shape)} of {x.dtype}")
    if len(noise.key) != len(x):
        raise UserError(f"expected noise keyed on {len(x)} samples, got {len(noise.key)}")
