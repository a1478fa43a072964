"""What the strongest attack does to a linear function, and how near its boundary is, in a ball cut by the box.

Written without the package's projections, so that it can judge them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lit_robust.threat import LpNorm

_HALVINGS = 80  # of an interval, to the last bit of float64


def largest_rise(slope: Tensor, x: Tensor, eps: Tensor, norm: LpNorm) -> Tensor:
    """The most that `slope · δ` can be with δ in the ball and x + δ in [0, 1], (N,).

    In the middle of the box it is eps times the dual norm of the slope.

    Args:
        slope: (N, D) in float64.
        x: Images, (N, D) in float64.
        eps: Radius of each, (N,).
        norm: `linf`, `l2` or `l1`.

    Raises:
        NotImplementedError: For another norm.
    """
    room = torch.where(slope > 0, 1 - x, x)  # in the direction in which the function rises
    steep, radius = slope.abs(), eps[:, None]
    if norm == "linf":
        return (torch.minimum(room, radius) * steep).sum(1)
    if norm == "l1":  # the steepest entries go first, each as far as it can
        order = steep.argsort(1, descending=True)
        most = room.gather(1, order)
        left = (radius - (most.cumsum(1) - most)).clamp(min=0)
        return (torch.minimum(most, left) * steep.gather(1, order)).sum(1)
    if norm == "l2":  # δ is in proportion to the slope up to the box: find the factor that uses the ball up
        low, high = torch.zeros_like(radius), 1 / steep.clamp(min=1e-12).amin(1, keepdim=True)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            inside = torch.minimum(middle * steep, room).norm(dim=1, keepdim=True) <= radius
            low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
        return (torch.minimum(low * steep, room) * steep).sum(1)
    raise NotImplementedError(f"no closed form for {norm}")


def nearest_distance(slope: Tensor, x: Tensor, gap: Tensor, norm: LpNorm) -> Tensor:
    """The smallest radius within which `slope · δ` can be the gap, (N,); infinite where the box forbids it.

    Args:
        slope: As for `largest_rise`.
        x: As for `largest_rise`.
        gap: What is to be made up, (N,), not negative.
        norm: As for `largest_rise`.
    """
    low, high = torch.zeros_like(gap), torch.full_like(gap, float(x.shape[1]))  # no point of the box is farther
    out_of_reach = largest_rise(slope, x, high, norm) < gap
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        enough = largest_rise(slope, x, middle, norm) >= gap
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return high.masked_fill(out_of_reach, torch.inf)
