"""Linear filters in torch: sums of shifted images, so that a result does not depend on the batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Border = Literal["edge", "mirror", "half_mirror"]
"""Beyond the border: the last pixel again, `dcb|abcd|cba`, or `cba|abcd|dcb`."""

_NEGLIGIBLE = 1e-6  # share of a filter's sum below which an entry is left out: 1/4000 of a level


def extend(x: Tensor, count: int, dim: int, border: Border) -> Tensor:
    """Images with `count` more pixels on either side of a dimension."""
    size = x.shape[dim]
    at = torch.arange(-count, size + count, device=x.device)
    if border == "edge":
        at = at.clamp(0, size - 1)
    elif border == "mirror":
        period = max(1, 2 * (size - 1))
        at = at.remainder(period)
        at = torch.minimum(at, period - at).clamp(max=size - 1)
    else:
        at = at.remainder(2 * size)
        at = torch.minimum(at, 2 * size - 1 - at)
    return x.index_select(dim, at)


def gaussian_weights(sigma: float, radius: int) -> list[float]:
    """Entries −radius to radius of a Gaussian of deviation `sigma` > 0, with the sum 1."""
    bell = [math.exp(-0.5 * (k / sigma) ** 2) for k in range(-radius, radius + 1)]
    return [value / sum(bell) for value in bell]


def gaussian(x: Tensor, sigma: float, *, truncate: float = 4.0, border: Border = "edge") -> Tensor:
    """Images (N, C, H, W) under a Gaussian filter of deviation `sigma`, cut off at `truncate` deviations."""
    radius = int(truncate * sigma + 0.5)
    if radius == 0:
        return x
    weights = gaussian_weights(sigma, radius)
    for dim in (2, 3):
        x = _symmetric(extend(x, radius, dim, border), weights, dim)
    return x


def _symmetric(extended: Tensor, weights: Sequence[float], dim: int) -> Tensor:
    radius = len(weights) // 2
    size = extended.shape[dim] - 2 * radius
    total = extended.narrow(dim, radius, size) * weights[radius]
    for k in range(radius):
        if weights[k] > _NEGLIGIBLE:
            pair = extended.narrow(dim, k, size) + extended.narrow(dim, 2 * radius - k, size)
            total += pair.mul_(weights[k])
    return total


def disk(radius: float, sigma: float, reach: int = 1) -> Tensor:
    """A disk of `radius` pixels under a Gaussian of deviation `sigma` and radius `reach`: (k, k) with the sum 1."""
    half = math.floor(radius) + reach
    at = torch.arange(-half, half + 1, dtype=torch.float64)
    inside = (at[:, None] ** 2 + at**2 <= radius**2).double()
    smoothing = gaussian_weights(sigma, reach)
    spread = (inside / inside.sum())[None, None]
    for dim in (2, 3):
        spread = _symmetric(extend(spread, reach, dim, "edge"), smoothing, dim)  # zeros at the border
    return spread[0, 0] / spread.sum()


def correlate(x: Tensor, kernel: Tensor, border: Border = "mirror") -> Tensor:
    """Images (N, C, H, W) under a filter (k, k) of odd side."""
    radius, (height, width) = len(kernel) // 2, x.shape[2:]
    extended = extend(extend(x, radius, 2, border), radius, 3, border)
    total = torch.zeros_like(x)
    for row, weights in enumerate(kernel.tolist()):
        for column, weight in enumerate(weights):
            if abs(weight) > _NEGLIGIBLE:
                total += extended[:, :, row : row + height, column : column + width] * weight
    return total


def streak(x: Tensor, degrees: Tensor, *, radius: float, sigma: float) -> Tensor:
    """Motion blur along a direction: half a Gaussian on the pixels that lie nearest to a ray.

    This is the motion blur of ImageMagick: entry k = 0, 1, ..., 2 ceil(radius) of the Gaussian stands k pixels along
    the ray, whose pixel is found by rounding; beyond the border is the last pixel.

    Args:
        x: Images, (N, C, H, W).
        degrees: Direction for each image, (N,): 0 is to the right, 90 downwards.
        radius: Radius in pixels.
        sigma: Deviation in pixels.

    Returns:
        (N, C, H, W).
    """
    height, width = x.shape[2:]
    weights = gaussian_weights(sigma, 2 * math.ceil(radius))[2 * math.ceil(radius) :]
    angle = torch.deg2rad(degrees)
    rows, columns = (torch.arange(size, device=x.device) for size in (height, width))
    flat, total = x.flatten(2), torch.zeros_like(x).flatten(2)
    for k, weight in enumerate(weights):
        if weight < _NEGLIGIBLE:
            break
        down, right = ((k * part - 0.5).ceil().long() for part in (angle.sin(), angle.cos()))
        row = (rows + down[:, None]).clamp(0, height - 1)
        column = (columns + right[:, None]).clamp(0, width - 1)
        at = (row[:, :, None] * width + column[:, None, :]).flatten(1)
        total += flat.gather(2, at[:, None].expand_as(flat)).mul_(weight / sum(weights))
    return total.view_as(x)


def magnify(x: Tensor, factor: float) -> Tensor:
    """The centre of images (N, C, H, W), magnified bilinearly by `factor` ≥ 1 to their size."""
    height, width = x.shape[2:]
    cropped = [math.ceil(size / factor) for size in (height, width)]
    top, left = ((size - part) // 2 for size, part in zip((height, width), cropped, strict=True))
    centre = x[:, :, top : top + cropped[0], left : left + cropped[1]]
    grown = [round(part * factor) for part in cropped]
    if grown != cropped:
        centre = F.interpolate(centre, size=grown, mode="bilinear", align_corners=True)
    top, left = ((part - size) // 2 for size, part in zip((height, width), grown, strict=True))
    return centre[:, :, top : top + height, left : left + width]


def resized(layer: Tensor, like: Tensor) -> Tensor:
    """A layer (N, 1, h, w), bilinearly brought to the height and width of `like`."""
    if layer.shape[2:] == like.shape[2:]:
        return layer
    return F.interpolate(layer, size=like.shape[2:], mode="bilinear", align_corners=False)
