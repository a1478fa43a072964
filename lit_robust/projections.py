"""Euclidean projections onto a norm ball cut by the pixel box, and onto balls of one radius a sample.

Those onto ball and box take a perturbation and the room that the box leaves it, and return the nearest perturbation
inside both. With v the perturbation and b ≥ 0 the room in the direction of its sign, the solution keeps the sign of v
and has the magnitude min(s·|v|, b) for L2 and min(max(|v| − m, 0), b) for L1, with one scalar s or m a sample. The
scalar is exact: the norm is piecewise quadratic or linear in it, and the piece that holds the solution is found, in L2
by growing the set of entries that rest on the box, in L1 by sorting the breakpoints.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

ORDER = {"linf": math.inf, "l2": 2.0, "l1": 1.0, "l0": 0.0}  # p of each norm
DUAL = {"linf": "l1", "l2": "l2", "l1": "linf"}


def project_l2(magnitude: Tensor, room: Tensor, radius: float) -> Tensor:
    """Magnitudes of the projection onto the L2 ball and the box.

    Args:
        magnitude: |v|, (N, D).
        room: How far the box lets each coordinate go in the direction of v, (N, D), not negative.
        radius: Radius of the ball.

    Returns:
        (N, D), at most `room`, of L2 norm at most `radius`.
    """
    inside = torch.minimum(magnitude, room)
    outside = inside.double().square().sum(1) > radius**2
    if not outside.any():
        return inside
    v, b = magnitude[outside], room[outside]
    # Of the entries that rest on the box too few are known at first, which makes the scale too small. So it only grows,
    # and more entries rest, until none is added: a handful of passes, without sorting.
    v_squared, b_squared = v.double().square(), b.double().square()
    resting = torch.zeros_like(v, dtype=torch.bool)
    while True:
        free = (v_squared * ~resting).sum(1, keepdim=True)
        left = (radius**2 - (b_squared * resting).sum(1, keepdim=True)).clamp(min=0)
        scale = (left / free.clamp(min=1e-300)).sqrt().clamp(max=1).to(v.dtype)
        more = resting | (v * scale > b)
        if torch.equal(more, resting):
            break
        resting = more
    inside[outside] = torch.minimum(v * scale, b)
    return inside


def project_l1(magnitude: Tensor, room: Tensor, radius: float) -> Tensor:
    """Magnitudes of the projection onto the L1 ball and the box; arguments as for `project_l2`."""
    inside = torch.minimum(magnitude, room)
    outside = inside.sum(1) > radius
    if not outside.any():
        return inside
    v, b = magnitude[outside], room[outside]
    moving = int((v > 0).sum(1).max())  # entries that move; the others need no sorting, and after sparse steps are most
    tops, rooms = v, b
    if moving <= v.shape[1] // 2:
        tops, at = v.topk(moving, dim=1)
        rooms = b.gather(1, at)
    # Lowering the threshold m from the largest |v|: a coordinate starts to grow at m = |v| and rests on the box from
    # m = |v| − b on, so the norm is piecewise linear in m with slope (number growing).
    points = torch.cat([tops, tops - rooms], 1).double()
    change = torch.cat([torch.ones_like(tops), -torch.ones_like(tops)], 1).double()
    points, order = points.sort(1, descending=True)
    growing = change.gather(1, order).cumsum(1)  # between point k and point k + 1
    norm = torch.nn.functional.pad(((points[:, :-1] - points[:, 1:]) * growing[:, :-1]).cumsum(1), (1, 0))
    k = ((norm <= radius).sum(1, keepdim=True) - 1).clamp(min=0)  # last point whose norm is within the ball
    threshold = points.gather(1, k) - (radius - norm.gather(1, k)) / growing.gather(1, k).clamp(min=1)
    # Subtracted before it is rounded: a rounded threshold would shift every coordinate to the same side.
    inside[outside] = torch.minimum((v.double() - threshold.clamp(min=0)).clamp(min=0).to(v.dtype), b)
    return inside


def project_l0(magnitude: Tensor, room: Tensor, radius: int) -> Tensor:
    """Magnitudes of a projection onto at most `radius` changed entries and the box; arguments as for `project_l2`."""
    inside = torch.minimum(magnitude, room)
    if radius >= magnitude.shape[1]:
        return inside
    # Leaving an entry at 0 costs |v|²; changing it costs what the box still cuts off.
    gain = magnitude.square() - (magnitude - inside).square()
    keep = gain.topk(radius, dim=1).indices
    return torch.zeros_like(inside).scatter(1, keep, inside.gather(1, keep))


def length(delta: Tensor, norm: str) -> Tensor:
    """Norm of each sample's perturbation, (N,).

    Args:
        delta: Perturbations, (N, D).
        norm: `linf`, `l2`, `l1`, or `l0` for the number of entries that are not 0.
    """
    if norm == "linf":  # vector_norm is many times slower in these two
        return delta.abs().amax(1)
    if norm == "l1":
        return delta.abs().sum(1)
    lengths: Tensor = torch.linalg.vector_norm(delta, ord=ORDER[norm], dim=1)
    return lengths


def project_balls(delta: Tensor, radius: Tensor, norm: str) -> Tensor:
    """The nearest perturbation in each sample's own ball; the box plays no part.

    Args:
        delta: Perturbations, (N, D).
        radius: Radius of each sample's ball, (N,), not negative; for `l0` whole numbers.
        norm: `linf`, `l2`, `l1` or `l0`.

    Returns:
        (N, D).
    """
    if norm == "linf":
        return torch.clamp(delta, -radius[:, None], radius[:, None])
    if norm == "l2":
        scale = radius / length(delta, "l2").clamp(min=torch.finfo(delta.dtype).tiny)
        return delta * scale.clamp(max=1)[:, None]
    if norm == "l1":
        magnitude = delta.abs()
        return delta.sign() * (magnitude - _simplex_threshold(magnitude, radius[:, None])).clamp_(min=0)
    return _largest(delta, radius)


def _simplex_threshold(magnitude: Tensor, radius: Tensor) -> Tensor:
    """What to subtract from the magnitudes (N, D) so that the positive rest sums to the radius, (N, 1).

    Newton's method from 0 (Michelot, 1986; Condat, 2016): the entries above the threshold only become fewer, so it ends
    after finitely many passes, a handful in practice, without sorting. 0 where the magnitudes are in the ball.
    """
    threshold = torch.zeros_like(radius)
    left = magnitude.new_full(radius.shape, torch.inf)
    while True:
        above = magnitude > threshold
        count = above.sum(1, keepdim=True).to(magnitude.dtype)
        if not (count < left).any():
            return threshold
        left = count
        excess = (magnitude * above).sum(1, keepdim=True) - radius
        threshold = torch.maximum(threshold, excess / count.clamp(min=1))


def _largest(delta: Tensor, count: Tensor) -> Tensor:
    """The `count` largest entries of each sample, by magnitude, and 0 elsewhere; (N, D) and (N,) to (N, D)."""
    most = min(int(count.max()) if len(count) else 0, delta.shape[1])
    order = delta.abs().topk(most, dim=1).indices
    kept = torch.arange(most, device=delta.device) < count[:, None]
    return torch.zeros_like(delta).scatter_(1, order, delta.gather(1, order) * kept)
