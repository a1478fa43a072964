"""How large a perturbation is at a layer, beside the layer's signal."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_ENTRIES = 2**18  # looked at together: temporary tensors of this size stay in the cache
_PART = 1024  # entries that are summed first
_LEVEL = 1e-3  # of a grey level: what rounding may take from a pixel that is a level


def psr(clean: Tensor, perturbed: Tensor, p: float = 2.0) -> Tensor:
    """Perturbation-to-signal ratio of each image, ‖f(x) − f(x')‖_p / ‖f(x)‖_p (dissertation, Eq. 3.1).

    Each row is scaled by its largest entry before it is summed, in float32 or better: no square overflows or vanishes,
    and an image's ratio is the same to the bit in every batch.

    Args:
        clean: What a layer makes of the clean images, (N, ...).
        perturbed: What it makes of the perturbed ones, (N, ...).
        p: The norm: 1, 2 or `math.inf`.

    Returns:
        Ratios, (N,), at least float32. 0 where the perturbation does not reach the layer; NaN where the signal is zero,
        as there is nothing to compare with, or where a number is not finite.

    Raises:
        ValueError: If the shapes differ, or `p` is none of the three.
    """
    if clean.shape != perturbed.shape:
        raise ValueError(f"expected two tensors of one shape, got {tuple(clean.shape)} and {tuple(perturbed.shape)}")
    if p not in (1, 2, math.inf):
        raise ValueError(f"expected p to be 1, 2 or infinity, got {p}")
    wide = torch.promote_types(clean.dtype, torch.float32)
    rows = max(1, _ENTRIES // max(1, math.prod(clean.shape[1:])))
    parts = zip(torch.split(clean, rows), torch.split(perturbed, rows), strict=True)
    return torch.cat([_ratio(a.to(wide).flatten(1), b.to(wide).flatten(1), p) for a, b in parts])


def truncate_8_bit(x: Tensor) -> Tensor:
    """Images as 8-bit files hold them that are written without rounding, ⌊255·x⌋/255.

    What a float32 has lost below a grey level by rounding is no perturbation: a pixel that is less than a thousandth of
    a level below one has that level.

    Args:
        x: Images in [0, 1], (N, C, H, W).

    Returns:
        Images, each pixel of which is at most one grey level darker.
    """
    return (255 * x + _LEVEL).floor() / x.new_full((), 255)


def _ratio(clean: Tensor, perturbed: Tensor, p: float) -> Tensor:
    """Ratios of rows, (n,), of matrices (n, d)."""
    (signal, shape), (change, its) = _norm(clean, p), _norm(perturbed - clean, p)
    return torch.where(signal > 0, (change / signal) * (its / shape), math.nan)


def _norm(values: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """The norm of each row of a matrix (n, d) as two factors, (n,): its largest entry, and the norm in units of it."""
    values = values.abs()
    largest = values.amax(1)
    if p == math.inf:
        return largest, torch.ones_like(largest)
    scaled = values / torch.where(largest > 0, largest, 1)[:, None]
    return largest, _sums(scaled) if p == 1 else _sums(scaled.square()).sqrt()


def _sums(values: Tensor) -> Tensor:
    """Sums of rows in two steps: torch deals a long row alone to threads, which rounds differently from rows beside."""
    missing = -values.shape[1] % _PART
    whole = F.pad(values, (0, missing)) if missing else values
    return whole.view(len(values), whole.shape[1] // _PART, _PART).sum(2).sum(1)
