"""HopSkipJump: the direction of the decision boundary, estimated from decisions around it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lit_robust.attacks.decision import DecisionAttack
from lit_robust.attacks.nearest import Nearest
from lit_robust.attacks.queries import Queries
from lit_robust.attacks.starts import FIRST
from lit_robust.errors import UserError
from lit_robust.projections import length
from lit_robust.sampling import Noise
from lit_robust.threat import ThreatModel

_BISECT, _ESTIMATE, _JUMP = range(3)  # parts of a step, each with queries of its own
_GROUP = 32  # directions of a sample that are drawn at once; another number draws other directions
_ENTRIES = 1 << 24  # numbers that are drawn at once, at most
_HALVINGS = 24  # of a jump, by which it is too short to see


@dataclass(frozen=True, kw_only=True)
class HopSkipJump(DecisionAttack):
    """HopSkipJumpAttack (Chen, Jordan and Wainwright, 2020, Algorithm 2), untargeted, in L2 or L∞.

    Every step starts on the boundary. It asks about random images around, at a distance δ, and takes the mean of their
    directions, those that are not adversarial with a minus sign and the mean sign subtracted, for the direction away
    from the boundary (Eq. 16). It jumps along it (in L∞ along its signs) by the distance to the image over the root of
    the step's number, halved until the image there is adversarial, and goes back to the boundary by bisection towards
    the image, to the share θ of the way. With d entries, θ is gamma / d^1.5 in L2 and gamma / d² in L∞, and δ is
    gamma / d of the distance, 0.1 in the first step. The defaults are the paper's and foolbox's.

    The answer is that of the nearest boundary point of all steps. Neither θ nor δ is smaller than what the images'
    precision tells apart.

    Args:
        norm: `l2` or `linf`.
        eps: See `DecisionAttack`.
        start: See `DecisionAttack`.
        chunk: See `DecisionAttack`.
        steps: Jumps.
        initial_gradient_queries: Images around the boundary that the first step asks about; the number grows with the
            root of the step's.
        max_gradient_queries: Most that a step asks about.
        gamma: Scale of θ and δ.

    Raises:
        UserError: If the norm is another or a number out of range.
    """

    norms: ClassVar[tuple[str, ...]] = ("l2", "linf")

    steps: int = 64
    initial_gradient_queries: int = 100
    max_gradient_queries: int = 10_000
    gamma: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps", "initial_gradient_queries", "max_gradient_queries"):
            if getattr(self, name) < 1:
                raise UserError(f"expected {name} to be at least 1, got {getattr(self, name)}")
        if not 0 < self.gamma < math.inf:
            raise UserError(f"expected gamma to be above 0, got {self.gamma}")

    @property
    def label(self) -> str:
        """A short name."""
        return f"{type(self).__name__}-{self.steps}"

    def __str__(self) -> str:
        queries = f"{self.initial_gradient_queries} to {self.max_gradient_queries} gradient queries"
        return f"{self.label} {self.counted}, {queries}, gamma {self.gamma:g}, from {self.start}"

    @property
    def walk_queries(self) -> int:
        """All gradient queries, with jumps and bisections as fine as float64 allows."""
        return sum(self._count(step) + _HALVINGS for step in range(1, self.steps + 1)) + 53 * (self.steps + 1)

    def walk(self, ask: Queries, x: Tensor, x_adv: Tensor, within: float | None) -> Tensor:
        """The nearest boundary point of each sample."""
        nearest = Nearest(x, self.norm, within=within)
        for step in range(self.steps + 1):
            if step > 0:
                x_adv = self._jumped(ask, x, x_adv, step)
            x_adv = self._bisected(ask, x, x_adv, step)
            going = nearest.record(x_adv, torch.ones(len(x), dtype=torch.bool, device=x.device))
            if not going.any():
                break
            x, x_adv, ask = x[going], x_adv[going], ask.rows(going)
        return nearest.x_adv

    def _bisected(self, ask: Queries, x: Tensor, x_adv: Tensor, step: int) -> Tensor:
        """The images where the straight way to the originals, in L∞ that of smaller boxes, leaves the adversarials."""
        end, delta = x_adv, x_adv - x
        farthest = _wide(length(delta.flatten(1), self.norm), x)
        low, high = torch.zeros_like(farthest), torch.ones_like(farthest)
        for draw in range(self._halvings(x)):
            share = (low + high) / 2
            moved = share * delta if self.norm == "l2" else torch.clamp(delta, -share * farthest, share * farthest)
            images = (x + moved).clamp_(0, 1)
            broken = _wide(ask(images, step=_number(step, _BISECT), draw=draw), x)
            end = torch.where(broken, images, end)
            low, high = torch.where(broken, low, share), torch.where(broken, share, high)
        return end

    def _halvings(self, x: Tensor) -> int:
        d = x[0].numel()
        threshold = self.gamma / (d**1.5 if self.norm == "l2" else d**2)
        return math.ceil(-math.log2(min(1.0, max(threshold, torch.finfo(x.dtype).eps / 2))))

    def _count(self, step: int) -> int:
        return int(min(self.initial_gradient_queries * math.sqrt(step), self.max_gradient_queries))

    def _jumped(self, ask: Queries, x: Tensor, x_adv: Tensor, step: int) -> Tensor:
        """Adversarials away from the boundary, in the estimated direction; where it is where none is found there."""
        distance, d = length((x_adv - x).flatten(1), self.norm), x[0].numel()
        resolved = math.sqrt(d) * torch.finfo(x.dtype).eps
        delta = torch.full_like(distance, 0.1) if step == 1 else (self.gamma / d * distance).clamp(min=resolved)
        samples = max(1, min(ask.chunk, _ENTRIES // d) // _GROUP)
        grad = torch.cat(
            [
                self._estimated(ask.rows(rows), x_adv[rows], delta[rows], self._count(step), step)
                for rows in torch.split(torch.arange(len(x), device=x.device), samples)
            ]
        )
        direction = ThreatModel(None, self.norm).ascent(grad, x_adv)
        return _jump(ask, x_adv, direction, distance / math.sqrt(step), step)

    def _estimated(self, ask: Queries, x_adv: Tensor, delta: Tensor, count: int, step: int) -> Tensor:
        """The direction away from the boundary as decisions tell it, of any length, (N, C, H, W)."""
        n, radius = len(x_adv), _wide(delta, x_adv)[:, None]
        signed, moves = torch.zeros_like(x_adv), torch.zeros_like(x_adv)
        votes = torch.zeros_like(delta)
        for draw, first in enumerate(range(0, count, _GROUP)):
            size = min(_GROUP, count - first)
            images = _directions(ask.noise, self.norm, (size, *x_adv.shape[1:]), step, draw, x_adv.dtype)
            images = images.mul_(radius).add_(x_adv[:, None]).clamp_(0, 1)
            rows = torch.arange(n, device=x_adv.device).repeat_interleave(size)
            broken = ask(images.flatten(0, 1), rows=rows, step=_number(step, _ESTIMATE), draw=draw).view(n, size)
            sign = torch.where(broken, 1.0, -1.0).to(x_adv.dtype)
            images -= x_adv[:, None]  # what the box left of the moves
            moves += images.sum(1)
            signed += images.mul_(_wide(sign, images)).sum(1)
            votes += sign.sum(1)
        mean = votes / count
        return signed - _wide(torch.where(mean.abs() == 1, 0, mean), x_adv) * moves


def _directions(noise: Noise, norm: str, shape: tuple[int, ...], step: int, draw: int, dtype: torch.dtype) -> Tensor:
    """Random directions of L2 length 1, (N, *shape), the first dimension of the shape being their number."""
    if norm == "l2":
        u = noise.normal("direction", shape, step=step, draw=draw, dtype=dtype)
    else:
        u = noise.uniform("direction", shape, step=step, draw=draw, dtype=dtype).mul_(2).sub_(1)
    return u.div_(_wide(u.flatten(2).norm(dim=2).clamp(min=torch.finfo(dtype).tiny), u))


def _jump(ask: Queries, x_adv: Tensor, direction: Tensor, size: Tensor, step: int) -> Tensor:
    """Adversarials along the directions, at the first of the sizes, each half of the last, where there is one."""
    end, rows = x_adv.clone(), torch.arange(len(x_adv), device=x_adv.device)
    for draw in range(_HALVINGS):
        if not len(rows):
            break
        images = (x_adv[rows] + _wide(size[rows] / 2**draw, x_adv) * direction[rows]).clamp_(0, 1)
        broken = ask(images, rows=rows, step=_number(step, _JUMP), draw=draw)
        end[rows[broken]], rows = images[broken], rows[~broken]
    return end


def _number(step: int, part: int) -> int:
    """The step of a query, different for every part of every step."""
    return FIRST + 3 * step + part


def _wide(values: Tensor, like: Tensor) -> Tensor:
    """Values with dimensions of size 1 appended, so that they broadcast."""
    return values.view(*values.shape, *[1] * (like.ndim - values.ndim))
