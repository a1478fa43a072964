"""Blur: defocus, Gaussian, motion, zoom and glass blur."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lit_robust.corruptions import filters
from lit_robust.corruptions.stored import relative_side, stored
from lit_robust.sampling import Noise


@stored
def gaussian_blur(x: Tensor, severity: int, noise: Noise) -> Tensor:
    """A Gaussian filter."""
    del noise  # the same for every sample
    sigma = (0.4, 0.6, 0.7, 0.8, 1.0)[severity - 1]
    return filters.gaussian(x, sigma * relative_side(x))


@stored
def defocus_blur(x: Tensor, severity: int, noise: Noise) -> Tensor:
    """A disk, the image of a point out of focus, smoothed at its rim."""
    del noise  # the same for every sample
    radius, rim = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))[severity - 1]
    side = relative_side(x)
    return filters.correlate(x, filters.disk(radius * side, rim * side, reach=max(1, math.ceil(side))))


@stored
def motion_blur(x: Tensor, severity: int, noise: Noise) -> Tensor:
    """The streak of a camera that moves along a line, within 45 degrees of the horizontal."""
    radius, sigma = ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5))[severity - 1]
    degrees = 90 * noise.uniform("motion_blur", (), draw=severity) - 45
    side = relative_side(x)
    return filters.streak(x, degrees, radius=radius * side, sigma=sigma * side)


@stored
def zoom_blur(x: Tensor, severity: int, noise: Noise) -> Tensor:
    """The mean of the image and of its centre magnified 1.00, 1.01, 1.02, ... times.

    The published ranges end at 1.05, 1.10, 1.15, 1.20 and 1.25; NumPy's rounding gives the first two one factor more.
    """
    del noise  # the same for every sample
    count = (7, 12, 16, 21, 26)[severity - 1]
    percent = (1 + 0.01) - 1  # as NumPy rounds it: 1.25 times 26 pixels is just above 32.5
    total = x.clone()
    for step in range(count):
        total += filters.magnify(x, 1 + step * percent)
    return total / (count + 1)


@stored
def glass_blur(x: Tensor, severity: int, noise: Noise) -> Tensor:
    """Pixels taken from a random place up and to the left, at most one pixel away, between two Gaussian filters.

    The published generator means to swap pixels, but overwrites the one and leaves the other; its files hold that, and
    so does this. Severity is not monotone. From 48 pixels on the distances are larger, and in both directions.
    """
    sigma, times = ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))[severity - 1]
    side = relative_side(x)
    reach = max(1, round(side))
    x = (filters.gaussian(x, sigma * side) * 255).round() / 255
    for step in range(times):
        x = _displaced(x, reach, noise, step, severity)
    return filters.gaussian(x, sigma * side)


def _displaced(x: Tensor, reach: int, noise: Noise, step: int, severity: int) -> Tensor:
    """Every pixel from −reach to reach − 1 pixels away; a margin stays as it is."""
    height, width = x.shape[2:]
    u = noise.uniform("glass_blur", (2, height, width), step=step, draw=severity)
    offset = (u * (2 * reach)).long() - reach
    rows = torch.arange(height, device=x.device)[:, None]
    columns = torch.arange(width, device=x.device)
    inside = (rows > reach) & (rows <= height - reach) & (columns > reach) & (columns <= width - reach)
    at = (rows + offset[:, 0]) * width + columns + offset[:, 1]
    at = torch.where(inside, at, rows * width + columns).flatten(1)
    flat = x.flatten(2)
    return flat.gather(2, at[:, None].expand_as(flat)).view_as(x)
