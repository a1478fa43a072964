"""The shortest steps from images onto a hyperplane within the pixel box, in L∞, L2 and L1.

From x, the step δ onto {w·z = b} has to make up the gap b − w·x. Coordinates move in the direction in which w·δ grows
towards the gap, until they reach the box. In L∞ and L2 each moves by min(room, m·|v|), with v = sign(w) or w and one
scalar m a sample. As w·δ is concave and piecewise linear in m, Newton's method from 0 never overshoots and is exact
once it is on the right piece: a handful of passes, no sorting. In L1 the coordinates of largest |w| move first, each
as far as it can.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MOST = 32  # coordinates that a step in L1 tries to make do with at first


def step_onto(x: Tensor, normal: Tensor, gap: Tensor, norm: str) -> Tensor:
    """The smallest δ with w·δ = gap and x + δ in [0, 1], for several points that share a hyperplane.

    Where no image lies on the hyperplane, δ leads to the corner of the box that is nearest to it. Coordinates of which
    w is 0 do not move.

    Args:
        x: P points a sample in [0, 1], (P, N, D).
        normal: w of each sample, finite, (N, D).
        gap: What is lacking, b − w·x, (P, N).
        norm: What δ is smallest in: `linf`, `l2` or `l1`.

    Returns:
        δ, (P, N, D).
    """
    highest, tiny = torch.finfo(x.dtype).max, torch.finfo(x.dtype).tiny
    scale = normal.abs().amax(1, keepdim=True).clamp(min=tiny)
    w = normal / scale  # whose squares neither overflow nor vanish
    rise = (gap.abs().unsqueeze(2) / scale).clamp(max=highest / 4)
    v = (w if norm == "l2" else w.sign()) * gap.sign().unsqueeze(2)
    room = torch.gt(v, 0, out=torch.empty_like(v)).sub_(x)  # to the corner that v points to
    if norm == "l1":
        return _steepest_first(room.mul_(v), w.abs(), rise).mul_(v)
    ends = room.div_(v).nan_to_num_(0, 0, 0) if norm == "l2" else room.mul_(v)  # in units of |v|; 0 where v is 0
    slope = w.square() if norm == "l2" else w.abs()
    return ends.clamp_(max=_multiplier(ends, slope, rise)).mul_(v)


def _multiplier(ends: Tensor, slope: Tensor, rise: Tensor) -> Tensor:
    """The m at which Σ slope · min(ends, m) is the rise, or at which all have reached their ends, (P, N, 1).

    Args:
        ends: (P, N, D), not negative.
        slope: (N, D), not negative.
        rise: (P, N, 1), not negative.
    """
    info = torch.finfo(ends.dtype)
    m, each = torch.zeros_like(rise), torch.empty_like(ends)
    while True:
        lacking = rise - torch.clamp(ends, max=m, out=each).mul_(slope).sum(2, keepdim=True)
        moving = torch.gt(ends, m, out=each).mul_(slope).sum(2, keepdim=True)
        short = (lacking > 8 * info.eps * rise) & (moving > 0)
        if not short.any():
            return m
        m = torch.where(short, (m + lacking / moving.clamp(min=info.tiny)).clamp(max=info.max / 4), m)


def _steepest_first(room: Tensor, slope: Tensor, rise: Tensor) -> Tensor:
    """How far each coordinate goes if the steepest go first, as far as they can, until Σ slope · size is the rise.

    Args:
        room: (P, N, D), not negative.
        slope: (N, D), not negative.
        rise: (P, N, 1), not negative.

    Returns:
        (P, N, D), at most `room`; what it holds where `slope` is 0 has no meaning.
    """
    size, rows, most = torch.zeros_like(room), torch.arange(len(slope), device=slope.device), _MOST
    while len(rows):
        top = slope[rows].topk(min(most, slope.shape[1]), dim=1)
        at = top.indices.expand(len(room), -1, -1)
        within = room[:, rows].gather(2, at)
        gain = within * top.values
        gained = gain.cumsum(2)
        lacking = (rise[:, rows] - (gained - gain)).clamp(min=0)
        filled = torch.minimum(within, lacking / top.values.clamp(min=torch.finfo(slope.dtype).tiny))
        size[:, rows] = torch.zeros_like(room[:, rows]).scatter(2, at, filled)
        if most >= slope.shape[1]:
            break
        rows, most = rows[(gained[..., -1:] < rise[:, rows]).any(0).squeeze(1)], 8 * most
    return size
