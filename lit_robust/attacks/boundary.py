"""The boundary attack: a random walk along the decision boundary that comes nearer in small steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lit_robust.attacks.decision import DecisionAttack
from lit_robust.attacks.queries import Queries
from lit_robust.attacks.starts import FIRST
from lit_robust.errors import UserError
from lit_robust.threat import LpNorm

_EVERY = 10  # steps between those that are counted for the step sizes
_SPHERICAL, _SOURCE = 100, 30  # counted steps that a success rate is of
_TOO_EASY, _TOO_HARD = (0.5, 0.25), (0.2, 0.1)  # rates of spherical steps, and of whole ones, that call for a change


@dataclass(frozen=True, kw_only=True)
class Boundary(DecisionAttack):
    """Boundary attack (Brendel, Rauber and Bethge, 2018), untargeted, in L2.

    A step moves at random on the sphere around the image, by the share `spherical_step` of its radius, and from there
    towards the image by the share `source_step`; where that is adversarial and nearer, it is the next point. The shares
    of each sample follow its success rates: both grow by `step_adaptation` where over half of its last hundred moves on
    the sphere were adversarial, and shrink below a fifth; `source_step` also grows where over a quarter of its last
    thirty whole steps were, and shrinks below a tenth. As in foolbox, whose defaults these are, every tenth step is
    counted, a rate starts afresh after a change, and a sample has converged once its `source_step` is below
    `convergence`. Unlike there, each sample has random moves of its own.

    Args:
        norm: `l2`.
        eps: See `DecisionAttack`.
        start: See `DecisionAttack`.
        chunk: See `DecisionAttack`.
        steps: Steps at most; each is a query, and every tenth one more.
        spherical_step: Share of the first moves on the sphere.
        source_step: Share of the first moves towards the image.
        step_adaptation: Factor of a change, above 1.
        convergence: Least `source_step` of a search that goes on; 0 for all steps.

    Raises:
        UserError: If the norm is another or a number out of range.
    """

    norms: ClassVar[tuple[str, ...]] = ("l2",)

    norm: LpNorm = "l2"
    steps: int = 25_000
    spherical_step: float = 0.01
    source_step: float = 0.01
    step_adaptation: float = 1.5
    convergence: float = 1e-7

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise UserError(f"expected steps to be at least 1, got {self.steps}")
        for name, least in (("spherical_step", 0), ("source_step", 0), ("step_adaptation", 1)):
            if not least < getattr(self, name) < math.inf:
                raise UserError(f"expected {name} to be above {least}, got {getattr(self, name)}")
        if not 0 <= self.convergence < math.inf:
            raise UserError(f"expected convergence to be 0 or more, got {self.convergence}")

    @property
    def label(self) -> str:
        """A short name."""
        return f"{type(self).__name__}-{self.steps}"

    def __str__(self) -> str:
        shares = f"spherical step {self.spherical_step:g}, source step {self.source_step:g}"
        rest = f"adaptation {self.step_adaptation:g}, convergence {self.convergence:g}"
        return f"{self.label} {self.counted}, {shares}, {rest}, from {self.start}"

    @property
    def walk_queries(self) -> int:
        """A query a step, and another every tenth."""
        return self.steps + self.steps // _EVERY

    def walk(self, ask: Queries, x: Tensor, x_adv: Tensor, within: float | None) -> Tensor:
        """The last point of each sample, which is its nearest."""
        x_adv, shape = x_adv.flatten(1).clone(), x.shape
        x, sizes = x.flatten(1), _StepSizes(self, len(x), x)
        distance = (x - x_adv).norm(dim=1)
        for step in range(self.steps):
            rows = (sizes.source >= self.convergence) & (distance > (0.0 if within is None else within))
            rows = rows.nonzero().flatten()
            if not len(rows):
                break
            asked = ask.rows(rows)
            eta = asked.noise.normal("direction", x.shape[1:], step=step, dtype=x.dtype)
            aside = _on_the_sphere(x[rows], x_adv[rows], eta, sizes.spherical[rows])
            images = _towards(x[rows], aside, distance[rows], sizes.source[rows])
            broken = asked(images.view(-1, *shape[1:]), step=FIRST + step)
            if (step + 1) % _EVERY == 0:
                on_the_sphere = asked(aside.view(-1, *shape[1:]), step=FIRST + step, draw=1)
                sizes.adapt(rows, on_the_sphere, broken)
            nearer = (x[rows] - images).norm(dim=1)
            better = broken & (nearer < distance[rows])
            x_adv[rows[better]], distance[rows[better]] = images[better], nearer[better]
        return x_adv.view(shape)


def _on_the_sphere(x: Tensor, x_adv: Tensor, eta: Tensor, share: Tensor) -> Tensor:
    """Moves along `eta`, made orthogonal to the way to `x`, and back onto the sphere around `x`; all (N, D)."""
    way = x - x_adv
    radius = way.norm(dim=1, keepdim=True)
    unit = way / radius
    eta = eta - (unit * eta).sum(1, keepdim=True) * unit
    move = eta * (share[:, None] * radius / eta.norm(dim=1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny))
    moved: Tensor = x + (move - way) / (1 + share[:, None].square()).sqrt()
    return moved.clamp_(0, 1)


def _towards(x: Tensor, aside: Tensor, radius: Tensor, share: Tensor) -> Tensor:
    """Moves from `aside` towards `x`, to within (1 - share) of the radius; not where it is nearer already."""
    way = x - aside
    left = way.norm(dim=1)
    move = (share * radius + left - radius).clamp(min=0) / left.clamp(min=torch.finfo(x.dtype).tiny)
    moved: Tensor = aside + move[:, None] * way
    return moved.clamp_(0, 1)


class _StepSizes:
    """Both step sizes of each sample, and the success rates that they follow."""

    def __init__(self, attack: Boundary, n: int, like: Tensor) -> None:
        self.factor = attack.step_adaptation
        self.spherical = like.new_full((n,), attack.spherical_step)
        self.source = like.new_full((n,), attack.source_step)
        self._rates = [_Rate(length, n, like.device) for length in (_SPHERICAL, _SOURCE)]

    def adapt(self, rows: Tensor, on_the_sphere: Tensor, whole: Tensor) -> None:
        """Counts a step of some samples, (M,): whether its move on the sphere, and the whole of it, is adversarial."""
        for rate, broken, easy, hard in zip(self._rates, (on_the_sphere, whole), _TOO_EASY, _TOO_HARD, strict=True):
            share, known = rate.count(rows, broken)
            up, down = known & (share > easy), known & (share < hard)
            factor = torch.where(up, self.factor, torch.where(down, 1 / self.factor, 1.0)).to(self.source.dtype)
            self.source[rows] *= factor
            if rate is self._rates[0]:
                self.spherical[rows] *= factor
            rate.forget(rows[up | down])


class _Rate:
    """The success rate of each sample over its last `length` counted steps."""

    def __init__(self, length: int, n: int, device: torch.device) -> None:
        self._last = torch.zeros(n, length, dtype=torch.bool, device=device)
        self._seen = torch.zeros(n, dtype=torch.int64, device=device)

    def count(self, rows: Tensor, success: Tensor) -> tuple[Tensor, Tensor]:
        """Counts a step of some samples, (M,), and returns their rates and whether they are of enough steps, (M,)."""
        length = self._last.shape[1]
        self._last[rows, self._seen[rows] % length] = success
        self._seen[rows] += 1
        return self._last[rows].double().mean(1), self._seen[rows] >= length

    def forget(self, rows: Tensor) -> None:
        """Starts some samples afresh."""
        self._seen[rows] = 0
