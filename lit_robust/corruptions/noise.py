"""Noise: Gaussian, shot, speckle and impulse noise."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from lit_robust.corruptions.stored import stored
from lit_robust.sampling import Noise


@stored
def gaussian_noise(x: Tensor, severity: int, noise: Noise) -> Tensor:
    """Gaussian noise of one deviation, independent in every entry."""
    sigma = (0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1]
    return x + sigma * noise.normal("gaussian_noise", x.shape[1:], draw=severity)


@stored
def speckle_noise(x: Tensor, severity: int, noise: Noise) -> Tensor:
    """Gaussian noise whose deviation is a share of each entry."""
    sigma = (0.06, 0.10, 0.12, 0.16, 0.20)[severity - 1]
    return x + x * (sigma * noise.normal("speckle_noise", x.shape[1:], draw=severity))


@stored
def impulse_noise(x: Tensor, severity: int, noise: Noise) -> Tensor:
    """Salt and pepper: a share of the entries becomes 0 or 1, each half of the time."""
    share = (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]
    u = noise.uniform("impulse_noise", x.shape[1:], draw=severity)
    salted = torch.where(u < share, torch.ones_like(x), x)
    return salted.masked_fill(u < share / 2, 0.0)


@stored
def shot_noise(x: Tensor, severity: int, noise: Noise) -> Tensor:
    """Poisson noise: the count of photons at an expected number of `photons` for white, divided by it."""
    photons = (500, 250, 100, 75, 50)[severity - 1]
    u = noise.uniform("shot_noise", x.shape[1:], draw=severity, dtype=_wide(x))
    return _poisson((x * 255).round(), u, photons).to(x.dtype) / photons


def _poisson(levels: Tensor, u: Tensor, photons: int) -> Tensor:
    """Poisson counts of mean `photons` levels / 255, for integer levels of 0 to 255, from one uniform number each.

    The smallest count whose distribution function exceeds the number (inversion), which is exact but for the 4e-14 to
    which a level plus a probability are known in float64 (2e-5 on MPS, which has float32 only). All levels share one
    sorted table, in which the distribution of level l lies between l and l + 1.
    """
    table = _distributions(photons).to(u)
    size = len(table) // 256
    found = torch.searchsorted(table, levels.to(u.dtype) + u, right=True)
    return found - levels.long() * size


@cache
def _distributions(photons: int) -> Tensor:
    """Level plus P(count ≤ 0, 1, ...) of all 256 levels, one after the other."""
    size = math.ceil(photons + 9 * math.sqrt(photons) + 30)  # a larger count is rarer than 1e-15
    levels = torch.arange(256, dtype=torch.float64)[:, None]
    counts = torch.arange(size, dtype=torch.float64)
    at_most: Tensor = torch.special.gammaincc(counts + 1, levels / 255 * photons)
    return (levels + at_most).flatten()


def _wide(x: Tensor) -> torch.dtype:
    return torch.float32 if x.device.type == "mps" else torch.float64
