"""Edges of small images, the distance to them, and the equalisation of levels, as spatter needs them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_robust.corruptions.filters import extend

_TAN = math.sqrt(2) - 1  # of 22.5 degrees


def canny(levels: Tensor, low: float, high: float) -> Tensor:
    """Edges (Canny, 1986) of whole levels (N, 1, H, W): a mask of the same shape.

    Gradients are Sobel's with the norm |gx| + |gy|, thinned along the nearest of four directions; edges above `low`
    count if they hang together with one above `high`.
    """
    gx, gy = _sobel(levels, 3), _sobel(levels, 2)
    strength = gx.abs() + gy.abs()
    padded = F.pad(strength, (1, 1, 1, 1))

    def beside(down: int, right: int) -> Tensor:
        height, width = levels.shape[2:]
        return padded[:, :, 1 + down : 1 + down + height, 1 + right : 1 + right + width]

    same = (gx < 0) == (gy < 0)
    falling = (strength > beside(-1, -1)) & (strength > beside(1, 1))
    rising = (strength > beside(-1, 1)) & (strength > beside(1, -1))
    thin = torch.where(same, falling, rising)
    upright = gy.abs() > (_TAN + 2) * gx.abs()
    thin = torch.where(upright, (strength > beside(-1, 0)) & (strength >= beside(1, 0)), thin)
    level = gy.abs() < _TAN * gx.abs()
    thin = torch.where(level, (strength > beside(0, -1)) & (strength >= beside(0, 1)), thin)
    weak, edges = thin & (strength > low), thin & (strength > high)
    while True:
        grown = _with_neighbours(edges) & weak
        if torch.equal(grown, edges):
            return edges
        edges = grown


def _with_neighbours(mask: Tensor) -> Tensor:
    for dim in (2, 3):
        extended, size = extend(mask, 1, dim, "edge"), mask.shape[dim]
        mask = mask | extended.narrow(dim, 0, size) | extended.narrow(dim, 2, size)
    return mask


def _sobel(levels: Tensor, dim: int) -> Tensor:
    """The derivative along a dimension, smoothed along the other."""
    extended = extend(extend(levels, 1, 2, "edge"), 1, 3, "edge")
    size, across = levels.shape[dim], 5 - dim
    other = levels.shape[across]
    difference = extended.narrow(dim, 2, size) - extended.narrow(dim, 0, size)
    first, middle, last = (difference.narrow(across, k, other) for k in range(3))
    return first + 2 * middle + last


def distance(edges: Tensor, most: int) -> Tensor:
    """The Euclidean distance of each pixel to the nearest edge, at most `most`; edges are a mask (N, 1, H, W)."""
    squared = torch.where(edges, 0.0, float(most**2))
    offset = torch.arange(-most, most + 1, device=edges.device, dtype=squared.dtype)
    for dim in (2, 3):
        padding = (0, 0, most, most) if dim == 2 else (most, most, 0, 0)
        windows = F.pad(squared, padding, value=float(most**2)).unfold(dim, 2 * most + 1, 1)
        squared = (windows + offset**2).amin(-1).clamp(max=most**2)
    return squared.sqrt()


def equalised(levels: Tensor) -> Tensor:
    """Whole levels of 0 to 255, (N, 1, H, W), by their rank in the image; images of one level stay as they are."""
    flat = levels.flatten(1).long()
    count = torch.zeros(len(flat), 256, dtype=torch.long, device=flat.device)
    count.scatter_add_(1, flat, torch.ones_like(flat))
    lowest = flat.amin(1, keepdim=True)
    of_lowest = count.gather(1, lowest)
    others = flat.shape[1] - of_lowest
    rank = (count.cumsum(1) - of_lowest).gather(1, flat)
    spread = (255 * rank / others.clamp(min=1)).round()
    return torch.where(others > 0, spread, flat.to(spread)).view_as(levels)
