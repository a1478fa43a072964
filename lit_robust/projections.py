"""Euclidean projections onto a norm ball cut by the pixel box.

All of them take a perturbation and the room that the box leaves it, and return the nearest perturbation inside both.
With v the perturbation and b ≥ 0 the room in the direction of its sign, the solution keeps the sign of v and has the
magnitude min(s·|v|, b) for L2 and min(max(|v| − m, 0), b) for L1, with one scalar s or m a sample. The scalar is exact:
the norm is piecewise quadratic or linear in it, and sorting the breakpoints finds the piece that holds the solution.
"""

from __future__ import annotations

import torch
from torch import Tensor


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
    # At scale s a coordinate with b < s·|v| rests on the box; each leaves it at the breakpoint s = b / |v|.
    breakpoints, order = torch.where(v > 0, b / v, torch.inf).sort(1)
    b = torch.where(v > 0, b, 0)  # an entry that does not move never rests on the box
    v_sorted, b_sorted = v.gather(1, order).double(), b.gather(1, order).double()
    resting = torch.nn.functional.pad(b_sorted.square().cumsum(1), (1, 0))  # (M, D + 1): the first k rest on the box
    free = torch.nn.functional.pad(v_sorted.square().flip(1).cumsum(1).flip(1), (0, 1))  # the others scale with s
    # Squared norm at each breakpoint; it grows with s, so the solution lies before the first that exceeds the ball.
    squared = resting[:, :-1] + breakpoints.double().clamp(max=1e30).square() * free[:, :-1]
    k = (squared <= radius**2).sum(1, keepdim=True).clamp(max=v.shape[1])
    rest, scaled = resting.gather(1, k), free.gather(1, k)
    scale = ((radius**2 - rest).clamp(min=0) / scaled.clamp(min=1e-300)).sqrt().clamp(max=1).to(v.dtype)
    inside[outside] = torch.minimum(v * scale, b)
    return inside


def project_l1(magnitude: Tensor, room: Tensor, radius: float) -> Tensor:
    """Magnitudes of the projection onto the L1 ball and the box; arguments as for `project_l2`."""
    inside = torch.minimum(magnitude, room)
    outside = inside.sum(1) > radius
    if not outside.any():
        return inside
    v, b = magnitude[outside], room[outside]
    # Lowering the threshold m from the largest |v|: a coordinate starts to grow at m = |v| and rests on the box from
    # m = |v| − b on, so the norm is piecewise linear in m with slope (number growing).
    points = torch.cat([v, v - b], 1).double()
    change = torch.cat([torch.ones_like(v), -torch.ones_like(v)], 1).double()
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
