"""Auto-PGD and its targeted form: gradient ascent that sets its own step size (Croce and Hein, ICML 2020 and 2021)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, nn

from lit_robust import radius
from lit_robust.attacks.apgd_climb import Climb, HalvingClimb, Stage, wide
from lit_robust.attacks.apgd_l1 import SparseClimb
from lit_robust.attacks.base import Attack
from lit_robust.attacks.gradient import Loss
from lit_robust.attacks.survivors import Survivors
from lit_robust.errors import UserError
from lit_robust.losses import cross_entropy, labels, likeliest_wrong, margin, targeted_dlr
from lit_robust.sampling import BETWEEN, Noise
from lit_robust.threat import ThreatModel

_CLIMBS: dict[str, type[Climb]] = {"linf": HalvingClimb, "l2": HalvingClimb, "l1": SparseClimb}


@dataclass(frozen=True, kw_only=True)
class _AutoPGD(Attack):
    """The search; a subclass says what it ascends, the norm how a step is made (see `_CLIMBS`)."""

    threat: ThreatModel
    steps: int = 100
    rho: float = 0.75
    stages: Sequence[tuple[float, float]] = ((1.0, 1.0),)

    def __post_init__(self) -> None:
        if self.threat.norm not in _CLIMBS:
            raise UserError(f"expected a threat model in linf, l2 or l1, got {self.threat}; PGD also takes the box")
        _ = self.threat.exact  # refuses a threat model without a radius
        if self.steps < 1:
            raise UserError(f"expected steps to be 1 or more, got {self.steps}")
        if not 0 < self.rho <= 1:
            raise UserError(f"expected rho to be above 0 and at most 1, got {self.rho}")
        object.__setattr__(self, "stages", _checked(self.stages))

    @property
    def threat_model(self) -> ThreatModel:
        """The images that it may answer with."""
        return self.threat

    @property
    def label(self) -> str:
        """A short name."""
        return f"{type(self).__name__}-{self.steps}"

    @property
    def _settings(self) -> str:
        """What a report names besides the loss or the targets."""
        rho = [] if self.threat.norm == "l1" else [f"rho {self.rho:g}"]
        larger = [f"{share:g} at {times:g} eps" for times, share in self.stages[:-1]]
        return "".join(f", {setting}" for setting in rho + larger)

    def _stages(self) -> Iterator[Stage]:
        left, passes = self.steps, 0
        for i, (times, share) in enumerate(self.stages, start=1):
            steps = left if i == len(self.stages) else min(left, math.ceil(radius.parse(share) * self.steps))
            eps = radius.parse(times) * self.threat.exact
            if self.threat.norm == "linf":
                eps = min(eps, Fraction(1))  # the whole box
            threat = ThreatModel(eps, self.threat.norm)
            yield Stage(threat=threat, steps=steps, passes=passes, alone=len(self.stages) == 1, rho=self.rho)
            left, passes = left - steps, passes + steps + 1

    def _climb(
        self,
        model: nn.Module,
        x: Tensor,
        given: tuple[Tensor, ...],
        noise: Noise,
        loss: Callable[..., Tensor],
        survivors: Survivors | None,
    ) -> Climb:
        """Ascends `loss(logits, *given)`, where `given` starts with `y`; returns the samples that are left at the end.

        An adversarial counts in the last stage alone, whose ball is that of the threat model.
        """
        *larger, last = self._stages()
        form = _CLIMBS[self.threat.norm]
        start = form.start((larger or [last])[0].threat, x, noise)
        for stage in larger:
            climb = form.begin(stage, x, stage.threat.project(start, x))
            start = self._ascend(model, climb, given, noise, loss, survivors=None).x_best
        climb = form.begin(last, x, last.threat.project(start, x) if larger else start)
        return self._ascend(model, climb, given, noise, loss, survivors)

    def _ascend(
        self,
        model: nn.Module,
        climb: Climb,
        given: tuple[Tensor, ...],
        noise: Noise,
        loss: Callable[..., Tensor],
        survivors: Survivors | None,
    ) -> Climb:
        """One stage. Its start is looked at too, so `steps` steps are `steps + 1` forward passes."""
        steps, passes = climb.stage.steps, climb.stage.passes
        for step in range(steps + 1):
            x_adv = climb.x_adv.detach().requires_grad_(step < steps)
            with noise.keyed(passes + step):
                logits = model(x_adv)
            going = None if survivors is None else survivors.record(x_adv.detach(), self.broken(logits, given[0]))
            if going is not None and not going.any():
                return climb.rows(going)
            losses = loss(logits, *given)
            grad = torch.autograd.grad(losses.sum(), x_adv)[0] if step < steps else torch.zeros_like(x_adv)
            climb.observe(losses.detach(), grad.nan_to_num(0.0, 0.0, 0.0))
            if going is not None and not going.all():
                climb, given, noise = climb.rows(going), tuple(t[going] for t in given), noise.rows(going)
            if step < steps:
                climb.advance(step)
        return climb


@dataclass(frozen=True, kw_only=True)
class APGD(_AutoPGD):
    """Auto-PGD: gradient ascent that sets its own step size (Croce and Hein, 2020, Algorithm 1; in L1 theirs of 2021).

    In L∞ and L2 it is PGD with momentum that starts at random on the surface of the ball with a step of twice the
    radius. At checkpoints, which grow denser, a sample's step is halved and its search goes back to the point of
    highest loss if too few steps raised the loss, or if neither the step nor the highest loss has changed since the
    last checkpoint. In L1 a step changes few entries, and how many and how far follows the best perturbation; see
    `SparseClimb`. With the cross-entropy this is the APGD-CE of AutoAttack, with `lit_robust.losses.dlr` its APGD-DLR.

    A search of several stages begins in a larger ball and goes on in smaller ones, each stage from the best point of
    the one before, projected. AutoAttack does so in L1: `((3, 0.3), (2, 0.3), (1, 0.4))`, 3 eps for 30 % of the steps,
    2 eps for 30 % and eps for the rest. Only what the last stage sees can count as broken.

    Args:
        threat: What may be changed, in L∞, L2 or L1.
        steps: Number of gradient steps, of all stages together.
        rho: The step is halved if at most this share of the steps since the last checkpoint raised the loss; unused in
            L1.
        stages: Pairs of a radius, in units of eps, and the share of the steps in the ball of that radius, rounded up;
            the last stage has the rest. Radii fall to 1, and shares add up to 1.
        loss: What to ascend, `(logits, y) -> (N,)`; see `lit_robust.losses`.

    Raises:
        UserError: If the norm is another one or has no radius, `steps` is below 1, `rho` is not above 0 and at most 1,
            radii of stages do not fall to 1, or their shares do not add up to 1.
    """

    loss: Loss = cross_entropy

    def __str__(self) -> str:
        name = getattr(self.loss, "__name__", type(self.loss).__name__)
        return f"{self.label} {self.threat}, {name}{self._settings}"

    def passes(self, classes: int) -> tuple[int, int] | None:
        """The most forward and backward passes that a sample takes."""
        return self.steps + len(self.stages), self.steps

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
        threat: As for `APGD`.
        steps: Number of gradient steps for each target.
        rho: As for `APGD`.
        stages: As for `APGD`; each target goes through all of them.
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
        return f"{self.label} {self.threat}, {self.targets} targets{self._settings}"

    def passes(self, classes: int) -> tuple[int, int] | None:
        """The most forward and backward passes that a sample takes."""
        runs = min(self.targets, classes - 1)
        return 1 + runs * (self.steps + len(self.stages) + 1), runs * self.steps  # 1 for the clean image, 1 to compare

    def search(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """Of each target's point of highest loss, the one of smallest margin to `y`."""
        worst, lowest = x, torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
        for rank, target in enumerate(self._targets(model, x, y, noise).unbind(1), start=1):
            streams = noise.restarted(rank)
            x_adv = self._climb(model, x, (y, target), streams, _towards, survivors=None).x_best
            with torch.no_grad(), streams.keyed(BETWEEN):
                value = margin(model(x_adv), y)
            better = value < lowest
            worst, lowest = torch.where(wide(better, x), x_adv, worst), torch.where(better, value, lowest)
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
        return likeliest_wrong(logits, y, self.targets)


def _towards(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """The targeted DLR loss, or the difference of the two logits where there are too few classes for it."""
    if logits.shape[1] >= 4:
        return targeted_dlr(logits, y, target)
    return (logits.gather(1, target[:, None]) - logits.gather(1, labels(y)[:, None])).squeeze(1)


def _checked(stages: Sequence[Sequence[float]]) -> tuple[tuple[float, float], ...]:
    """Stages as a tuple of pairs.

    Raises:
        UserError: If the last radius is not 1, one is below a later one, or the shares are not above 0 or do not add up
            to 1.
    """
    pairs = tuple((float(times), float(share)) for times, share in stages)
    times, shares = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    if not pairs or times[-1] != 1 or times != sorted(times, reverse=True) or not math.isfinite(times[0]):
        raise UserError(f"expected radii of stages that fall to 1, in units of eps, got {times}")
    if min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
        raise UserError(f"expected shares of the steps above 0 that add up to 1, got {shares}")
    return pairs
