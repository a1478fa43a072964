"""Auto-PGD and its targeted form: gradient ascent that sets its own step size (Croce and Hein, ICML 2020)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from itertools import pairwise

import torch
from torch import Tensor, nn

from lit_robust.attacks.base import Attack
from lit_robust.attacks.gradient import Loss
from lit_robust.attacks.survivors import Survivors
from lit_robust.errors import UserError
from lit_robust.losses import cross_entropy, labels, margin, targeted_dlr
from lit_robust.sampling import BETWEEN, Noise
from lit_robust.threat import ThreatModel

_MOMENTUM = 0.75  # share of the new step; the rest continues the last one
_FIRST_STEP = 2.0  # in units of the radius


@dataclass(frozen=True, kw_only=True)
class _AutoPGD(Attack):
    """The search of Algorithm 1; a subclass says what it ascends.

    It follows the authors' code where that differs from the paper: an interval in which exactly `rho` of the steps rose
    halves the step too, a rise is counted against the iterate before even if a checkpoint has discarded that one, and
    the second condition does not hold at the first checkpoint. Two details differ from their code: checkpoints are the
    paper's for any number of steps, and the L2 projection onto ball and box is the exact one.
    """

    threat: ThreatModel
    steps: int = 100
    rho: float = 0.75

    def __post_init__(self) -> None:
        if self.threat.norm not in ("linf", "l2"):
            raise UserError(f"expected a threat model in linf or l2, got {self.threat}; PGD also takes l1 and the box")
        _ = self.threat.exact  # refuses a threat model without a radius
        if self.steps < 1:
            raise UserError(f"expected steps to be 1 or more, got {self.steps}")
        if not 0 < self.rho <= 1:
            raise UserError(f"expected rho to be above 0 and at most 1, got {self.rho}")

    @property
    def threat_model(self) -> ThreatModel:
        """The images that it may answer with."""
        return self.threat

    @property
    def label(self) -> str:
        """A short name."""
        return f"{type(self).__name__}-{self.steps}"

    def _climb(
        self,
        model: nn.Module,
        x: Tensor,
        given: tuple[Tensor, ...],
        noise: Noise,
        loss: Callable[..., Tensor],
        survivors: Survivors | None,
    ) -> _Climb:
        """Ascends `loss(logits, *given)`, where `given` starts with `y`; returns the samples that are left at the end.

        The start is looked at too, so `steps` steps are `steps + 1` forward passes.
        """
        climb = _Climb.begin(x, self._start(x, noise), _FIRST_STEP * self.threat.radius)
        intervals = _intervals(self.steps)
        for step in range(self.steps + 1):
            x_adv = climb.x_adv.detach().requires_grad_(step < self.steps)
            with noise.keyed(step):
                logits = model(x_adv)
            going = None if survivors is None else survivors.record(x_adv.detach(), self.broken(logits, given[0]))
            if going is not None and not going.any():
                return climb.rows(going)
            losses = loss(logits, *given)
            grad = torch.autograd.grad(losses.sum(), x_adv)[0] if step < self.steps else torch.zeros_like(x_adv)
            climb.observe(losses.detach(), grad.nan_to_num(0.0, 0.0, 0.0))
            if going is not None and not going.all():
                climb, given, noise = climb.rows(going), tuple(t[going] for t in given), noise.rows(going)
            if step == self.steps:
                break
            if step in intervals:
                climb.check(self.rho * intervals[step])
            climb.move(self.threat, _MOMENTUM if step else 1.0)
        return climb

    def _start(self, x: Tensor, noise: Noise) -> Tensor:
        """A random point on the surface of the ball, cut by the box."""
        if self.threat.norm == "linf":
            direction = 2 * noise.uniform("start", x.shape[1:], dtype=x.dtype) - 1
        else:
            direction = noise.normal("start", x.shape[1:], dtype=x.dtype)
        length = self.threat.distance(direction, torch.zeros_like(direction)).clamp(min=1e-12)
        return self.threat.project(x + self.threat.radius * direction / _wide(length.to(x.dtype).to(x.device), x), x)


@dataclass(frozen=True, kw_only=True)
class APGD(_AutoPGD):
    """Auto-PGD (Croce and Hein, 2020, Algorithm 1): PGD with momentum that halves its step where it stops helping.

    It starts at random on the surface of the ball with a step of twice the radius. At checkpoints, which grow denser, a
    sample's step is halved and its search goes back to the point of highest loss if too few steps raised the loss, or
    if neither the step nor the highest loss has changed since the last checkpoint. With the cross-entropy this is the
    APGD-CE of AutoAttack, with `lit_robust.losses.dlr` its APGD-DLR.

    Args:
        threat: What may be changed, in L∞ or L2.
        steps: Number of gradient steps.
        rho: The step is halved if at most this share of the steps since the last checkpoint raised the loss.
        loss: What to ascend, `(logits, y) -> (N,)`; see `lit_robust.losses`.

    Raises:
        UserError: If the norm is another one or has no radius, `steps` is below 1, or `rho` is not above 0 and at
            most 1.
    """

    loss: Loss = cross_entropy

    def __str__(self) -> str:
        name = getattr(self.loss, "__name__", type(self.loss).__name__)
        return f"{self.label} {self.threat}, {name}, rho {self.rho:g}"

    def search(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """The point of highest loss that was seen."""
        return self._climb(model, x, (y,), noise, self.loss, survivors=None).x_best

    def falsify(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise, *, leave: bool = True) -> Tensor:
        """The first adversarial of each sample, or the point of highest loss."""
        survivors = Survivors(x, leave=leave)
        return survivors.finish(self._climb(model, x, (y,), noise, self.loss, survivors).x_best)


@dataclass(frozen=True, kw_only=True)
class TargetedAPGD(_AutoPGD):
    """Auto-PGD on the targeted DLR loss towards several wrong classes in turn (Croce and Hein, 2020, Eq. 7).

    The targets are the classes of the largest logits on the clean image other than the label, in order; each has a
    start of its own. With fewer classes all wrong ones are targets. In AutoAttack's terms this is APGD-T; `y` is the
    true label, and any wrong class counts as broken.

    The targeted DLR loss needs 4 classes, and with fewer z_target − z_y is ascended instead: a ratio of logit
    differences is constant with 2 classes, and with 3, over the untargeted loss's denominator, towards the least likely
    class.

    Args:
        threat: What may be changed, in L∞ or L2.
        steps: Number of gradient steps for each target.
        rho: As for `APGD`.
        targets: Number of target classes.

    Raises:
        UserError: As for `APGD`, or if `targets` is below 1.
    """

    targets: int = 9

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.targets < 1:
            raise UserError(f"expected targets to be 1 or more, got {self.targets}")

    def __str__(self) -> str:
        return f"{self.label} {self.threat}, {self.targets} targets, rho {self.rho:g}"

    def search(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """Of each target's point of highest loss, the one of smallest margin to `y`."""
        worst, lowest = x, torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
        for rank, target in enumerate(self._targets(model, x, y, noise).unbind(1), start=1):
            streams = noise.restarted(rank)
            x_adv = self._climb(model, x, (y, target), streams, _towards, survivors=None).x_best
            with torch.no_grad(), streams.keyed(BETWEEN):
                value = margin(model(x_adv), y)
            better = value < lowest
            worst, lowest = torch.where(_wide(better, x), x_adv, worst), torch.where(better, value, lowest)
        return worst

    def falsify(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise, *, leave: bool = True) -> Tensor:
        """The first adversarial that is found on the way to any target, else the last target's point."""
        survivors, x_adv, rows = Survivors(x, leave=leave), x, torch.arange(len(x), device=x.device)
        for rank, target in enumerate(self._targets(model, x, y, noise).unbind(1), start=1):
            given = y[rows], target[rows]
            climb = self._climb(model, x[rows], given, noise.rows(rows).restarted(rank), _towards, survivors)
            x_adv, rows = climb.x_best, rows[climb.position]
            if not len(rows):
                break
        return survivors.finish(x_adv)

    def _targets(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """The most likely wrong classes of the clean images, (N, K), likeliest first."""
        with torch.no_grad(), noise.keyed(BETWEEN):
            logits = model(x)
        others = logits.scatter(1, labels(y)[:, None], -torch.inf)
        most_likely: Tensor = others.topk(min(self.targets, logits.shape[1] - 1), dim=1).indices
        return most_likely


def _towards(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """The targeted DLR loss, or the difference of the two logits where there are too few classes for it."""
    if logits.shape[1] >= 4:
        return targeted_dlr(logits, y, target)
    return (logits.gather(1, target[:, None]) - logits.gather(1, labels(y)[:, None])).squeeze(1)


def _intervals(steps: int) -> dict[int, int]:
    """The steps of the checkpoints, each with the number of steps since the one before (section 3.1).

    Whole percents, since 0.57 · 100 is not 57 in floating point.
    """
    percents, gap = [0], 22
    while percents[-1] + gap <= 100:
        percents.append(percents[-1] + gap)
        gap = max(gap - 3, 6)
    at = sorted({-(-percent * steps // 100) for percent in percents})
    return {step: step - before for before, step in pairwise(at)}


def _wide(per_sample: Tensor, x: Tensor) -> Tensor:
    """(N,) as (N, 1, 1, 1)."""
    return per_sample.view(-1, *[1] * (x.ndim - 1))


@dataclass
class _Climb:
    """Where the search of each sample is: images (M, C, H, W) and values (M,), one row a sample that goes on."""

    x: Tensor
    x_adv: Tensor
    before: Tensor  # the iterate before x_adv
    grad: Tensor  # at x_adv
    loss: Tensor  # of the last iterate
    x_best: Tensor
    grad_best: Tensor
    loss_best: Tensor
    loss_checked: Tensor  # loss_best at the last checkpoint
    rises: Tensor  # steps since then that raised the loss
    halved: Tensor  # whether the step was halved then
    size: Tensor  # of a step
    position: Tensor  # in the batch that the search began with

    @classmethod
    def begin(cls, x: Tensor, start: Tensor, size: float) -> _Climb:
        """The state before the start has been looked at."""
        zero = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        nothing = torch.zeros_like(x)
        return cls(
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
            size=zero + size,
            position=torch.arange(len(x), device=x.device),
        )

    def rows(self, keep: Tensor) -> _Climb:
        """The state of some of the samples; `keep` is a mask, (M,)."""
        return _Climb(**{field.name: getattr(self, field.name)[keep] for field in fields(self)})

    def observe(self, loss: Tensor, grad: Tensor) -> None:
        """Takes in what the model says at `x_adv`."""
        better = loss > self.loss_best
        self.rises = self.rises + (loss > self.loss)
        self.loss, self.grad = loss, grad
        self.loss_best = torch.where(better, loss, self.loss_best)
        self.x_best = torch.where(_wide(better, grad), self.x_adv, self.x_best)
        self.grad_best = torch.where(_wide(better, grad), grad, self.grad_best)

    def check(self, enough: float) -> None:
        """A checkpoint: halves the steps that do not help any more and goes back to the best point with them."""
        halve = (self.rises <= enough) | (~self.halved & (self.loss_best <= self.loss_checked))
        self.size = torch.where(halve, self.size / 2, self.size)
        self.x_adv = torch.where(_wide(halve, self.x), self.x_best, self.x_adv)
        self.grad = torch.where(_wide(halve, self.x), self.grad_best, self.grad)
        self.halved, self.loss_checked, self.rises = halve, self.loss_best, torch.zeros_like(self.rises)

    def move(self, threat: ThreatModel, momentum: float) -> None:
        """A share `momentum` of a projected step, and the rest of the last move."""
        ahead = threat.project(self.x_adv + _wide(self.size, self.x) * threat.ascent(self.grad, self.x_adv), self.x)
        onward = self.x_adv + momentum * (ahead - self.x_adv) + (1 - momentum) * (self.x_adv - self.before)
        self.before, self.x_adv = self.x_adv, threat.project(onward, self.x)
