"""FMN: gradient steps in a ball whose radius closes in on the decision boundary."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lit_robust.attacks.minimum_norm import MinimumNormAttack
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

    def search(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """The nearest adversarial among the iterates."""
        walk, x_adv = _Walk(x, self.norm), x
        for step in range(self.steps):
            x_adv = x_adv.detach().requires_grad_()
            with noise.keyed(step):
                logits = model(x_adv)
            gap = margin(logits, y)
            broken = self.broken(logits, y)
            walk.record(x_adv.detach(), broken)
            if step + 1 < self.steps:
                (grad,) = torch.autograd.grad(-gap.sum(), x_adv)
                grad, x_adv = grad.nan_to_num(0.0, 0.0, 0.0), x_adv.detach()
                direction = _STEP.ascent(grad, x_adv)
                steepness = (grad * direction).flatten(1).sum(1)  # its L2 norm, without squares that underflow
                walk.resize(broken, gap.detach(), direction, steepness, self._gamma(step))
                x_adv = walk.move(x_adv, direction, self._alpha(step))
        return walk.nearest

    def _alpha(self, step: int) -> float:
        end = self.alpha / 100 if self.alpha_final is None else self.alpha_final
        return _cosine(self.alpha, end, step / self.steps)

    def _gamma(self, step: int) -> float:
        return _cosine(self.gamma, self.gamma_final, step / self.steps)


def _cosine(first: float, last: float, progress: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * progress)) / 2


class _Walk:
    """Where the search of each sample is: its ball and its nearest adversarial so far.

    Args:
        x: The images, (N, C, H, W).
        norm: Norm of the balls.
    """

    def __init__(self, x: Tensor, norm: LpNorm) -> None:
        flat = x.flatten(1)
        self.x, self.norm, self.nearest = x, norm, x.clone()
        self.best = flat.new_full((len(x),), torch.inf)  # norm of the nearest
        self.distance = torch.zeros_like(self.best)  # norm of the last iterate
        self.radius = torch.full_like(self.best, float(norm == "l0"))
        self.farthest = length(torch.maximum(flat, 1 - flat), norm)  # a corner of the box

    def record(self, x_adv: Tensor, broken: Tensor) -> None:
        """Takes an iterate, as the model has seen it, as the nearest where it is adversarial and nearer."""
        self.distance = length((x_adv - self.x).flatten(1), self.norm)
        nearer = broken & (self.distance < self.best)
        self.nearest[nearer] = x_adv[nearer]
        self.best = torch.where(nearer, self.distance, self.best)

    def resize(self, broken: Tensor, gap: Tensor, direction: Tensor, steepness: Tensor, gamma: float) -> None:
        """Chooses the radius of the next iterate's ball.

        Args:
            broken: Whether the last iterate is adversarial, (N,).
            gap: Its margin, (N,).
            direction: The margin's steepest descent there, of L2 length 1, (N, C, H, W); 0 where there is none.
            steepness: L2 norm of the margin's gradient, (N,).
            gamma: Share by which the radius changes.
        """
        shrunk, grown = self.radius * (1 - gamma), self.radius * (1 + gamma)
        if self.norm == "l0":
            shrunk = torch.minimum(shrunk.floor(), self.radius - 1).clamp(min=1)
            grown = torch.maximum(grown.floor(), self.radius + 1)
        else:
            slope = steepness * length(direction.flatten(1), DUAL[self.norm])  # dual norm of the gradient
            slope = slope.clamp(min=torch.finfo(slope.dtype).tiny)
            estimate = torch.maximum(grown, self.distance + gap.abs() / slope)
            grown = torch.where(self.best.isfinite(), grown, estimate)
        radius = torch.where(broken, torch.minimum(shrunk, self.best), grown)
        self.radius = torch.fmin(radius, self.farthest)  # which also takes the place of NaN

    def move(self, x_adv: Tensor, direction: Tensor, alpha: float) -> Tensor:
        """The next iterate: `alpha` along the direction, onto the ball, into the box."""
        delta = (x_adv - self.x).add_(direction, alpha=alpha)
        return (self.x + project_balls(delta.flatten(1), self.radius, self.norm).view_as(self.x)).clamp_(0, 1)
