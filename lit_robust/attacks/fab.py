"""FAB and its targeted form: projections onto the linearised decision boundary (Croce and Hein, ICML 2020)."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lit_robust.attacks.minimum_norm import MinimumNormAttack
from lit_robust.attacks.nearest import Nearest
from lit_robust.errors import UserError
from lit_robust.hyperplane import step_onto
from lit_robust.losses import labels, likeliest_wrong
from lit_robust.projections import DUAL, length
from lit_robust.sampling import BETWEEN, Noise
from lit_robust.threat import LpNorm

_REACH = {"linf": 0.3, "l2": 1.0, "l1": 5.0}  # what bounds random starts without eps; the authors' numbers
_FINAL_STEPS, _SHORT = 3, 0.999  # secant steps end just before the boundary, since a tie is no adversarial
_PART = 2**17  # entries that are moved at a time; more leave the processor's cache
_FINAL_PASSES = 6  # the image's, and those of the final search


@dataclass(frozen=True, kw_only=True)
class _FastAdaptiveBoundary(MinimumNormAttack):
    """The search of Algorithm 1; a subclass says which boundary is linearised.

    Every step projects the last iterate and the image onto the linearised boundary, goes farther by the factor `eta`
    and mixes the two, the image's with a weight of `alpha_max` at most. An adversarial iterate then keeps a share
    `beta` of its perturbation. Later restarts begin at random, half as far away as the nearest adversarial is, and
    half of `eps` at most.
    """

    steps: int = 100
    restarts: int = 1
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm == "l0":
            raise UserError("expected norm to be linf, l2 or l1, got 'l0'; FMN also takes l0")
        for name in ("steps", "restarts"):
            if getattr(self, name) < 1:
                raise UserError(f"expected {name} to be 1 or more, got {getattr(self, name)}")
        if not 0 <= self.alpha_max <= 1:
            raise UserError(f"expected alpha_max to be from 0 to 1, got {self.alpha_max}")
        if not 1 <= self.eta < math.inf:
            raise UserError(f"expected eta to be 1 or more, got {self.eta}")
        if not 0 < self.beta <= 1:
            raise UserError(f"expected beta to be above 0 and at most 1, got {self.beta}")

    @property
    def label(self) -> str:
        """A short name."""
        return f"{type(self).__name__}-{self.steps}"

    def __str__(self) -> str:
        restarts = f", {self.restarts} restarts" if self.restarts > 1 else ""
        options = f"alpha_max {self.alpha_max:g}, eta {self.eta:g}, beta {self.beta:g}"
        return f"{self.label} {self.counted}{restarts}, {options}"

    def passes(self, classes: int) -> tuple[int, int] | None:
        """The most forward and backward passes that a sample takes."""
        steps = self.steps * self.restarts
        return 2 * steps + _FINAL_PASSES, steps * (classes - 1)

    @abstractmethod
    def _runs(self, logits: Tensor, y: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """What `_boundary` is given in each run, (N,) each, from the logits of the images."""

    @abstractmethod
    def _boundary(self, logits: Tensor, x_adv: Tensor, y: Tensor, *given: Tensor) -> tuple[Tensor, Tensor]:
        """A boundary to linearise: z_y − z_other at `x_adv`, (M,), and its descent, ∇(z_other − z_y), as `x_adv`."""

    def search(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """The nearest adversarial of all steps, and of a final search on the way from it to the image."""
        nearest = Nearest(x, self.norm, within=0.0)  # what is wrong already has no nearer adversarial
        self._walks(model, x, labels(y), noise, nearest)
        self._final_search(model, x, labels(y), noise, nearest)
        return nearest.x_adv

    def falsify(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise, *, leave: bool = True) -> Tensor:
        """The first adversarial within `eps`, else the nearest of all steps; without `eps` what `search` answers."""
        if self.eps is None:
            return self.search(model, x, y, noise)
        nearest = Nearest(x, self.norm, within=self._within(leave))
        self._walks(model, x, labels(y), noise, nearest)
        return nearest.x_adv

    def _walks(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise, nearest: Nearest) -> None:
        """All runs with their restarts, each of the samples that have not left."""
        with torch.no_grad(), noise.keyed(BETWEEN):
            logits = model(x)
        nearest.record(x, self.broken(logits, y))
        runs = ((given, restart) for given in self._runs(logits, y) for restart in range(self.restarts))
        for number, (given, restart) in enumerate(runs, start=1):
            rows = nearest.position
            if not len(rows):
                return
            images, streams = x[rows].contiguous(), noise.rows(rows).restarted(number)
            start = self._start(images, nearest.distance[rows], streams) if restart else images
            self._walk(model, torch.stack([start, images]), (y[rows], *(t[rows] for t in given)), streams, nearest)

    def _walk(
        self, model: nn.Module, points: Tensor, given: tuple[Tensor, ...], noise: Noise, nearest: Nearest
    ) -> None:
        """One run from `points[0]`, with the images in `points[1]`, (2, M, C, H, W); `given` starts with `y`."""
        for step in range(self.steps):
            x_adv = points[0].detach().requires_grad_()
            with noise.keyed(2 * step):
                logits = model(x_adv)
            self._advance(points, *self._boundary(logits, x_adv, *given))
            with torch.no_grad(), noise.keyed(2 * step + 1):
                broken = self.broken(model(points[0]), given[0])
            going = nearest.record(points[0], broken)
            if not going.all():
                points, broken, noise = points[:, going], broken[going], noise.rows(going)
                given = tuple(t[going] for t in given)
                if not len(broken):
                    return
            if broken.any():
                share = torch.where(broken, self.beta, 1.0).to(points.dtype)
                torch.lerp(points[1], points[0], _wide(share, points[0]), out=points[0])

    def _advance(self, points: Tensor, lead: Tensor, grad: Tensor) -> None:
        """Moves `points[0]` one step, in place; `lead` and `grad` are what `_boundary` says there."""
        flat, grad, lead = points.view(2, len(lead), -1), grad.flatten(1), lead.nan_to_num(0.0)
        part = max(1, _PART // grad.shape[1]) if points.device.type == "cpu" else len(lead)
        for first in range(0, len(lead), part):
            rows = slice(first, first + part)
            both, normal = flat[:, rows], grad[rows]
            gap = lead[rows] + torch.stack([torch.zeros_like(lead[rows]), ((both[0] - both[1]) * normal).sum(1)])
            step = step_onto(both, normal, gap, self.norm)
            own, other = length(step.flatten(0, 1), self.norm).clamp(min=1e-8).view(2, -1, 1)
            weight = (own / (own + other)).clamp(max=self.alpha_max)
            beyond = step.mul_(self.eta).add_(both)
            torch.lerp(beyond[0], beyond[1], weight, out=flat[0, rows]).clamp_(0, 1)

    def _start(self, x: Tensor, distance: Tensor, noise: Noise) -> Tensor:
        """Random points at half the distance of the nearest adversarial, or at half of `eps` if that is less."""
        if self.norm == "linf":
            direction = 2 * noise.uniform("start", x.shape[1:], dtype=x.dtype) - 1
        else:
            direction = noise.normal("start", x.shape[1:], dtype=x.dtype)
        reach = distance.clamp(max=_REACH[self.norm] if self.eps is None else self.counted.radius) / 2
        size = reach / length(direction.flatten(1), self.norm).clamp(min=1e-12)
        return (x + _wide(size, x) * direction).clamp_(0, 1)

    def _final_search(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise, nearest: Nearest) -> None:
        """Secant steps towards the boundary on the line from each adversarial to its image, three of them."""
        rows = nearest.position[nearest.distance[nearest.position].isfinite()]
        if not len(rows):
            return
        right, wrong, y, noise = x[rows], nearest.x_adv[rows], y[rows], noise.rows(rows)
        found = Nearest(right, self.norm)
        found.record(wrong, torch.ones_like(rows, dtype=torch.bool))
        z_right, z_wrong = (_logits(model, images, noise, step) for step, images in enumerate((right, wrong)))
        for step in range(2, 2 + _FINAL_STEPS):
            other = z_wrong.scatter(1, y[:, None], -torch.inf).argmax(1)
            over, under = -_lead(z_wrong, y, other), _lead(z_right, y, other)
            share = (over / (over + under)).nan_to_num(0.0).clamp(0, 1)
            x_adv = torch.lerp(wrong, right, _wide(_SHORT * share, x))
            logits = _logits(model, x_adv, noise, step)
            broken = self.broken(logits, y)
            found.record(x_adv, broken)
            wrong, z_wrong = _where(broken, x_adv, wrong), _where(broken, logits, z_wrong)
            right, z_right = _where(broken, right, x_adv), _where(broken, z_right, logits)
        nearest.x_adv[rows], nearest.distance[rows] = found.x_adv, found.distance


@dataclass(frozen=True, kw_only=True)
class FAB(_FastAdaptiveBoundary):
    """Fast adaptive boundary attack (Croce and Hein, 2020, "Minimally distorted adversarial examples", Algorithm 1).

    Each step linearises the boundaries between the label and all other classes and takes the one that is nearest,
    which needs a backward pass for each wrong class; with many classes `TargetedFAB` is cheaper. `search` ends with
    the paper's search on the line from the adversarial to the image, which `falsify` with `eps` leaves out as
    AutoAttack does.

    Args:
        norm: What distance is measured in: `linf`, `l2` or `l1`.
        eps: See `MinimumNormAttack`.
        steps: Steps of each run, of two forward passes each.
        restarts: Runs of each sample; the first begins at the image, the others at random near it.
        alpha_max: Highest weight of the image's projection against the iterate's, in [0, 1].
        eta: How far a step goes, in units of the projection; at least 1.
        beta: Share of its perturbation that an adversarial iterate keeps for the next step, in (0, 1].

    Raises:
        UserError: If a number is out of range or the norm is `l0`.
    """

    def _runs(self, logits: Tensor, y: Tensor) -> Iterator[tuple[Tensor, ...]]:
        yield ()

    def _boundary(self, logits: Tensor, x_adv: Tensor, y: Tensor, *given: Tensor) -> tuple[Tensor, Tensor]:
        classes = logits.shape[1]
        nearest = logits.new_full(y.shape, torch.inf)
        lead, grad = torch.zeros_like(nearest), torch.zeros_like(x_adv)
        for shift in range(1, classes):
            leads = _lead(logits, y, (y + shift) % classes)
            descent = _gradient(-leads, x_adv, keep=shift + 1 < classes)
            leads = leads.detach()
            distance = leads.abs() / _dual_length(descent, self.norm)
            nearer = distance < nearest
            nearest, lead = torch.where(nearer, distance, nearest), torch.where(nearer, leads, lead)
            grad = _where(nearer, descent, grad)
        return lead, grad


@dataclass(frozen=True, kw_only=True)
class TargetedFAB(_FastAdaptiveBoundary):
    """FAB towards several wrong classes in turn: the FAB-T of AutoAttack.

    The targets are the classes of the largest logits on the clean image other than the label, in order; with fewer
    classes all wrong ones. A step linearises only the boundary between the label and the target, so it needs one
    backward pass. `y` is the true label, and any wrong class counts as broken.

    Args:
        norm: As for `FAB`.
        eps: As for `FAB`.
        steps: As for `FAB`, for each target.
        restarts: As for `FAB`, for each target.
        alpha_max: As for `FAB`.
        eta: As for `FAB`.
        beta: As for `FAB`.
        targets: Number of target classes.

    Raises:
        UserError: As for `FAB`, or if `targets` is below 1.
    """

    targets: int = 9

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.targets < 1:
            raise UserError(f"expected targets to be 1 or more, got {self.targets}")

    def __str__(self) -> str:
        return f"{super().__str__()}, {self.targets} targets"

    def passes(self, classes: int) -> tuple[int, int] | None:
        """The most forward and backward passes that a sample takes."""
        steps = self.steps * self.restarts * min(self.targets, classes - 1)
        return 2 * steps + _FINAL_PASSES, steps

    def _runs(self, logits: Tensor, y: Tensor) -> Iterator[tuple[Tensor, ...]]:
        yield from ((target,) for target in likeliest_wrong(logits, y, self.targets).unbind(1))

    def _boundary(self, logits: Tensor, x_adv: Tensor, y: Tensor, *given: Tensor) -> tuple[Tensor, Tensor]:
        lead = _lead(logits, y, *given)
        return lead.detach(), _gradient(-lead, x_adv)


def _lead(logits: Tensor, y: Tensor, other: Tensor) -> Tensor:
    """z_y − z_other, (M,)."""
    return (logits.gather(1, y[:, None]) - logits.gather(1, other[:, None])).squeeze(1)


def _gradient(values: Tensor, x_adv: Tensor, *, keep: bool = False) -> Tensor:
    """Gradient of each sample's value, 0 where it is undefined; `keep` the graph for another."""
    (grad,) = torch.autograd.grad(values.sum(), x_adv, retain_graph=keep)
    return grad.nan_to_num(0.0, 0.0, 0.0)


def _dual_length(grad: Tensor, norm: LpNorm) -> Tensor:
    """Dual norm of each sample's gradient, (M,), above 0; no square of it overflows or vanishes."""
    flat = grad.flatten(1)
    scale = flat.abs().amax(1).clamp(min=torch.finfo(flat.dtype).tiny)
    return length(flat / scale[:, None], DUAL[norm]).clamp(min=1e-12) * scale


def _logits(model: nn.Module, x: Tensor, noise: Noise, step: int) -> Tensor:
    with torch.no_grad(), noise.keyed(step):
        logits: Tensor = model(x)
    return logits


def _where(mask: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Samples of `yes` where the mask (M,) holds, and of `no` elsewhere."""
    return torch.where(_wide(mask, yes), yes, no)


def _wide(per_sample: Tensor, x: Tensor) -> Tensor:
    """(M,) as (M, 1, ..., 1) of as many dimensions as `x`."""
    return per_sample.view(-1, *[1] * (x.ndim - 1))
