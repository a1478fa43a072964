"""Where a search of Auto-PGD stands: what its forms share, and the form of L∞ and L2 (Croce and Hein, 2020)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from functools import cache
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor

from lit_robust.sampling import Noise
from lit_robust.threat import ThreatModel

_MOMENTUM = 0.75  # share of the new step; the rest continues the last one
_FIRST_STEP = 2.0  # in units of the radius


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stretch of a search in a ball of one radius.

    Attributes:
        threat: The ball.
        steps: Number of gradient steps in it.
        passes: Number of forward passes of the stages before.
        alone: Whether the search has no other stage.
        rho: See `APGD`.
    """

    threat: ThreatModel
    steps: int
    passes: int
    alone: bool
    rho: float


@dataclass(kw_only=True)
class Climb(ABC):
    """Where the search of each sample is: images (M, C, H, W) and values (M,), one row a sample that goes on.

    A subclass says where a search starts and how a step is made.
    """

    stage: Stage
    x: Tensor
    x_adv: Tensor
    grad: Tensor  # at x_adv
    x_best: Tensor
    grad_best: Tensor
    loss_best: Tensor
    position: Tensor  # in the batch that the stage began with

    @staticmethod
    @abstractmethod
    def start(threat: ThreatModel, x: Tensor, noise: Noise) -> Tensor:
        """A random point to start from, (N, C, H, W)."""

    @classmethod
    @abstractmethod
    def begin(cls, stage: Stage, x: Tensor, start: Tensor) -> Self:
        """The state before the start has been looked at."""

    @abstractmethod
    def advance(self, step: int) -> None:
        """Moves `x_adv` on, after `step` steps; `observe` has been told about the last one."""

    def observe(self, loss: Tensor, grad: Tensor) -> None:
        """Takes in the loss (M,) and the gradient at `x_adv`."""
        better = loss > self.loss_best
        self.grad = grad
        self.loss_best = torch.where(better, loss, self.loss_best)
        self.x_best = torch.where(wide(better, grad), self.x_adv, self.x_best)
        self.grad_best = torch.where(wide(better, grad), grad, self.grad_best)

    def rows(self, keep: Tensor) -> Self:
        """The state of some of the samples; `keep` is a mask, (M,)."""
        state: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: value[keep] for name, value in state.items() if name != "stage"})

    def _go_back(self, those: Tensor) -> None:
        """Takes some of the samples, a mask (M,), back to their point of highest loss."""
        self.x_adv = torch.where(wide(those, self.x), self.x_best, self.x_adv)
        self.grad = torch.where(wide(those, self.x), self.grad_best, self.grad)


@dataclass(kw_only=True)
class HalvingClimb(Climb):
    """Steps with momentum whose size is halved where they stop helping (Croce and Hein, 2020, Algorithm 1).

    It follows the authors' code where that differs from the paper: an interval in which exactly `rho` of the steps rose
    halves the step too, a rise is counted against the iterate before even if a checkpoint has discarded that one, and
    the second condition does not hold at the first checkpoint. Two details differ from their code: checkpoints are the
    paper's for any number of steps, and the L2 projection onto ball and box is the exact one.
    """

    before: Tensor  # the iterate before x_adv
    loss: Tensor  # of the last iterate
    loss_checked: Tensor  # loss_best at the last checkpoint
    rises: Tensor  # steps since then that raised the loss
    halved: Tensor  # whether the step was halved then
    size: Tensor  # of a step

    @staticmethod
    def start(threat: ThreatModel, x: Tensor, noise: Noise) -> Tensor:
        """A random point on the surface of the ball, cut by the box."""
        if threat.norm == "linf":
            direction = 2 * noise.uniform("start", x.shape[1:], dtype=x.dtype) - 1
        else:
            direction = noise.normal("start", x.shape[1:], dtype=x.dtype)
        length = threat.distance(direction, torch.zeros_like(direction)).clamp(min=1e-12)
        return threat.project(x + threat.radius * direction / wide(length.to(x.dtype).to(x.device), x), x)

    @classmethod
    def begin(cls, stage: Stage, x: Tensor, start: Tensor) -> Self:
        """The state before the start has been looked at."""
        zero, nothing = torch.zeros(len(x), dtype=x.dtype, device=x.device), torch.zeros_like(x)
        return cls(
            stage=stage,
            x=x,
            x_adv=start,
            before=start,
            grad=nothing,
            loss=zero + torch.inf,  # so that the start is no rise
            x_best=start,
            grad_best=nothing,
            loss_best=zero - torch.inf,
            loss_checked=zero - torch.inf,
            rises=torch.zeros_like(zero, dtype=torch.int64),
            halved=torch.ones_like(zero, dtype=torch.bool),
            size=zero + _FIRST_STEP * stage.threat.radius,
            position=torch.arange(len(x), device=x.device),
        )

    def observe(self, loss: Tensor, grad: Tensor) -> None:
        """Takes in the loss (M,) and the gradient at `x_adv`, and counts rises."""
        super().observe(loss, grad)
        self.rises = self.rises + (loss > self.loss)
        self.loss = loss

    def advance(self, step: int) -> None:
        """A checkpoint where one is due, then a step."""
        since = intervals(self.stage.steps).get(step)
        if since is not None:
            self.check(self.stage.rho * since)
        self.move(_MOMENTUM if step else 1.0)

    def check(self, enough: float) -> None:
        """A checkpoint: halves the steps that do not help any more and goes back to the best point with them."""
        halve = (self.rises <= enough) | (~self.halved & (self.loss_best <= self.loss_checked))
        self.size = torch.where(halve, self.size / 2, self.size)
        self._go_back(halve)
        self.halved, self.loss_checked, self.rises = halve, self.loss_best, torch.zeros_like(self.rises)

    def move(self, momentum: float) -> None:
        """A share `momentum` of a projected step, and the rest of the last move."""
        threat, here = self.stage.threat, self.x_adv
        ahead = threat.project(threat.ascent(self.grad, here).mul_(wide(self.size, here)).add_(here), self.x)
        # In place on what is new, since fresh tensors cost more than the sums.
        onward = (ahead - here).mul_(momentum).add_(here).add_((here - self.before).mul_(1 - momentum))
        self.before, self.x_adv = here, threat.project(onward, self.x)


@cache
def intervals(steps: int) -> dict[int, int]:
    """The steps of the checkpoints, each with the number of steps since the one before (2020, section 3.1).

    Whole percents, since 0.57 · 100 is not 57 in floating point.
    """
    percents, gap = [0], 22
    while percents[-1] + gap <= 100:
        percents.append(percents[-1] + gap)
        gap = max(gap - 3, 6)
    at = sorted({-(-percent * steps // 100) for percent in percents})
    return {step: step - before for before, step in pairwise(at)}


def wide(per_sample: Tensor, x: Tensor) -> Tensor:
    """(N,) as (N, 1, 1, 1)."""
    return per_sample.view(-1, *[1] * (x.ndim - 1))
