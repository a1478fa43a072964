"""FMN: gradient steps in a ball whose radius closes in on the decision boundary."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lit_robust.attacks.minimum_norm import MinimumNormAttack
from lit_robust.attacks.nearest import Nearest
from lit_robust.errors import UserError
from lit_robust.losses import margin
from lit_robust.projections import DUAL, length, project_balls
from lit_robust.sampling import Noise
from lit_robust.threat import LpNorm, ThreatModel

_STEP = ThreatModel(None, "l2")  # steps have an L2 length, whatever the norm of the ball


@dataclass(frozen=True, kw_only=True)
class FMN(MinimumNormAttack):
    """Fast minimum-norm attack (Pintor et al., 2021, Algorithm 1), untargeted, from the image itself.

    Every step descends the margin by `alpha` along the gradient, projects onto a ball and clamps to the box. Until a
    sample has an adversarial, its ball reaches as far as the margin's linear extrapolation; from then on the radius
    shrinks by `gamma` where the last iterate is adversarial, to the smallest norm found at most, and grows by `gamma`
    where it is not. In L0 the radius starts at 1 and changes by at least one entry, so that `steps` limits how many
    entries it tries. `alpha` and `gamma` fall to their last values along half a cosine. The defaults are foolbox's.

    One thing is not as published: the extrapolated radius also grows by `gamma` at least. Where the box cuts steps
    short, the extrapolation alone creeps up to the boundary and never crosses it.

    Args:
        norm: What distance is measured in.
        eps: See `MinimumNormAttack`.
        steps: Forward passes; the first is the clean image's.
        alpha: L2 length of the first step.
        alpha_final: What it falls to; None for a hundredth.
        gamma: Share by which the radius changes at first, below 1.
        gamma_final: What it falls to.

    Raises:
        UserError: If `steps` is below 1 or another number out of range.
    """

    steps: int = 100
    alpha: float = 1.0
    alpha_final: float | None = None
    gamma: float = 0.05
    gamma_final: float = 0.001

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise UserError(f"expected steps to be at least 1, got {self.steps}")
        for name in ("alpha", "alpha_final"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"expected {name} to be above 0, got {value}")
        for name in ("gamma", "gamma_final"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"expected {name} to be from 0 to below 1, got {getattr(self, name)}")

    @property
    def label(self) -> str:
        """A short name."""
        return f"{type(self).__name__}-{self.steps}"

    def __str__(self) -> str:
        return f"{self.label} {self.counted}, alpha {self.alpha:g}, gamma {self.gamma:g}"

    def passes(self, classes: int) -> tuple[int, int] | None:
        """The most forward and backward passes that a sample takes."""
        return self.steps, self.steps - 1

    def search(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """The nearest adversarial among the iterates."""
        return self._run(model, x, y, noise, Nearest(x, self.norm))

    def falsify(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise, *, leave: bool = True) -> Tensor:
        """The first adversarial within `eps` of each sample, else the nearest; without `eps`, the nearest."""
        return self._run(model, x, y, noise, Nearest(x, self.norm, within=self._within(leave)))

    def _run(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise, nearest: Nearest) -> Tensor:
        walk, x_adv = _Walk.begin(x, self.norm), x
        for step in range(self.steps):
            x_adv = x_adv.detach().requires_grad_()
            with noise.keyed(step):
                logits = model(x_adv)
            gap, broken = margin(logits, y), self.broken(logits, y)
            going = nearest.record(x_adv.detach(), broken)
            if step + 1 == self.steps or not going.any():
                break
            (grad,) = torch.autograd.grad(-gap.sum(), x_adv)
            grad, x_adv, gap = grad.nan_to_num(0.0, 0.0, 0.0), x_adv.detach(), gap.detach()
            if not going.all():
                walk, y, noise = walk.rows(going), y[going], noise.rows(going)
                x_adv, grad, gap, broken = x_adv[going], grad[going], gap[going], broken[going]
            direction = _STEP.ascent(grad, x_adv)
            steepness = (grad * direction).flatten(1).sum(1)  # its L2 norm, without squares that underflow
            slope = steepness * length(direction.flatten(1), DUAL.get(self.norm, "l2"))  # L0 has no use for it
            walk.resize(x_adv, broken, gap, slope, nearest.distance[nearest.position], self._gamma(step))
            x_adv = walk.move(x_adv, direction, self._alpha(step))
        return nearest.x_adv

    def _alpha(self, step: int) -> float:
        end = self.alpha / 100 if self.alpha_final is None else self.alpha_final
        return _cosine(self.alpha, end, step / self.steps)

    def _gamma(self, step: int) -> float:
        return _cosine(self.gamma, self.gamma_final, step / self.steps)


def _cosine(first: float, last: float, progress: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * progress)) / 2


@dataclass
class _Walk:
    """The ball of each sample, one row a sample that goes on."""

    x: Tensor  # its middle, (M, C, H, W)
    radius: Tensor  # (M,)
    farthest: Tensor  # norm of the farthest image, a corner of the box, (M,)
    norm: LpNorm

    @classmethod
    def begin(cls, x: Tensor, norm: LpNorm) -> _Walk:
        """The balls before the first step."""
        flat = x.flatten(1)
        farthest = length(torch.maximum(flat, 1 - flat), norm)
        return cls(x=x, radius=torch.full_like(farthest, float(norm == "l0")), farthest=farthest, norm=norm)

    def rows(self, keep: Tensor) -> _Walk:
        """The balls of some of the samples; `keep` is a mask, (M,)."""
        return _Walk(x=self.x[keep], radius=self.radius[keep], farthest=self.farthest[keep], norm=self.norm)

    def resize(self, x_adv: Tensor, broken: Tensor, gap: Tensor, slope: Tensor, best: Tensor, gamma: float) -> None:
        """Chooses the radius of the next iterate's ball.

        Args:
            x_adv: The last iterate, (M, C, H, W).
            broken: Whether it is adversarial, (M,).
            gap: Its margin, (M,).
            slope: Dual norm of the margin's gradient there, (M,); unused in L0.
            best: Norm of the nearest adversarial so far, infinite where there is none, (M,).
            gamma: Share by which the radius changes.
        """
        shrunk, grown = self.radius * (1 - gamma), self.radius * (1 + gamma)
        if self.norm == "l0":
            shrunk = torch.minimum(shrunk.floor(), self.radius - 1).clamp(min=1)
            grown = torch.maximum(grown.floor(), self.radius + 1)
        else:
            ahead = gap.abs() / slope.clamp(min=torch.finfo(slope.dtype).tiny)
            estimate = torch.maximum(grown, length((x_adv - self.x).flatten(1), self.norm) + ahead)
            grown = torch.where(best.isfinite(), grown, estimate)
        radius = torch.where(broken, torch.minimum(shrunk, best), grown)
        self.radius = torch.fmin(radius, self.farthest)  # which also takes the place of NaN

    def move(self, x_adv: Tensor, direction: Tensor, alpha: float) -> Tensor:
        """The next iterate: `alpha` along the direction, onto the ball, into the box."""
        delta = (x_adv - self.x).add_(direction, alpha=alpha)
        return (self.x + project_balls(delta.flatten(1), self.radius, self.norm).view_as(self.x)).clamp_(0, 1)
