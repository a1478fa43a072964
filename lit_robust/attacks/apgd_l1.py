"""The form of Auto-PGD in L1: sparse steps without momentum (Croce and Hein, ICML 2021)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from lit_robust.attacks.apgd_climb import Climb, Stage, wide
from lit_robust.sampling import Noise
from lit_robust.threat import ThreatModel

_FIRST_SHARE = 5  # the first steps change a fifth of the entries
_REDUCTION = 1.5  # of the step, and from the entries of a perturbation to those of the next steps
_SMALLEST_STEP = 0.1  # in units of the radius


@dataclass(kw_only=True)
class SparseClimb(Climb):
    """Steps along the largest entries of the gradient, as many as the best perturbation asks for.

    The form of Croce and Hein (2021). A step has the size of the radius in L1 and spreads it evenly over some entries
    of the image, at first a fifth of them. After every 25th part of the steps there is a check, which sets the number
    of entries to two thirds of those that the best perturbation changes. Where these have become fewer by more than a
    twentieth, the step is the radius again and the search goes back to its best point; elsewhere the step is divided by
    1.5, down to a tenth of the radius. Two entries stay two, so a step along a single one is rare, and none asks
    whether the box still lets an entry move: on linear models the published form may end below the optimum.

    It follows the authors' code, which takes the first number of entries from the start if that is a given point, as in
    a search of several stages. Two details differ from their code: two thirds are exact, while there rounding may add
    an entry, and an entry counts as changed only if it differs from the image, while there projections leave traces of
    rounding in entries that they set back.
    """

    entries: Tensor  # that a step changes, (M,) int64
    changed: Tensor  # entries that the best perturbation changed at the last check, (M,) int64
    size: Tensor  # of a step

    @staticmethod
    def start(threat: ThreatModel, x: Tensor, noise: Noise) -> Tensor:
        """Normal noise projected onto ball and box, which is sparse."""
        return threat.project(x + noise.normal("start", x.shape[1:], dtype=x.dtype), x)

    @classmethod
    def begin(cls, stage: Stage, x: Tensor, start: Tensor) -> Self:
        """The state before the start has been looked at."""
        zero, nothing = torch.zeros(len(x), dtype=x.dtype, device=x.device), torch.zeros_like(x)
        count = math.prod(x.shape[1:])
        changed = torch.full_like(zero, count, dtype=torch.int64) if stage.alone else _changed(start, x)
        first = -(-count // _FIRST_SHARE)
        return cls(
            stage=stage,
            x=x,
            x_adv=start,
            grad=nothing,
            x_best=start,
            grad_best=nothing,
            loss_best=zero - torch.inf,
            entries=torch.full_like(changed, first) if stage.alone else _fewer(changed),
            changed=changed,
            size=zero + stage.threat.radius,
            position=torch.arange(len(x), device=x.device),
        )

    def advance(self, step: int) -> None:
        """A check where one is due, then a step."""
        if step and step % max(self.stage.steps // 25, 1) == 0:
            self.check()
        self.move()

    def check(self) -> None:
        """Fits the number of entries to the best perturbation, and the step to whether that has become sparser."""
        radius, changed = self.stage.threat.radius, _changed(self.x_best, self.x)
        sparser = 20 * changed < 19 * self.changed
        smaller = (self.size / _REDUCTION).clamp(min=_SMALLEST_STEP * radius)
        self.size = torch.where(sparser, radius, smaller)
        self.entries, self.changed = _fewer(changed), changed
        self._go_back(sparser)

    def move(self) -> None:
        """A projected step."""
        step = wide(self.size, self.x) * sparse_ascent(self.grad, self.entries)
        self.x_adv = self.stage.threat.project(step.add_(self.x_adv), self.x)


def sparse_ascent(grad: Tensor, entries: Tensor) -> Tensor:
    """Signs of the largest entries of a gradient, scaled to an L1 norm of 1; zeros stay zero.

    Args:
        grad: Gradients, (N, ...).
        entries: How many entries of each sample are taken, (N,) int64, at least 1; more if the last ones tie.

    Returns:
        Of the shape of `grad`.
    """
    if not len(grad):
        return torch.zeros_like(grad)
    steepness = grad.abs().flatten(1)
    smallest = steepness.topk(int(entries.max()), dim=1).values.gather(1, entries[:, None] - 1)
    signs = grad.flatten(1).sign().mul_(steepness >= smallest)
    return signs.div_(signs.abs().sum(1, keepdim=True).clamp_(min=1)).view_as(grad)


def _changed(x_adv: Tensor, x: Tensor) -> Tensor:
    """How many entries differ, (N,) int64."""
    return (x_adv != x).flatten(1).sum(1)


def _fewer(changed: Tensor) -> Tensor:
    """Two thirds, rounded up; at least 1."""
    return (-(-2 * changed // 3)).clamp(min=1)
