"""FGSM, R+FGSM, BIM and PGD: one loop with different starts and steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor, nn

from lit_robust import radius
from lit_robust.attacks.base import Attack
from lit_robust.attacks.survivors import Survivors
from lit_robust.errors import UserError
from lit_robust.losses import cross_entropy
from lit_robust.sampling import Noise
from lit_robust.threat import ThreatModel

Loss = Callable[[Tensor, Tensor], Tensor]
Start = Literal["random", "clean", "gaussian"]
_GAUSSIAN_START = 0.001  # standard deviation of TRADES' start (Zhang et al., 2019)


@dataclass(frozen=True, kw_only=True)
class PGD(Attack):
    """Projected gradient descent (Madry et al., 2018): ascends a loss and projects onto the threat model.

    Args:
        threat: What may be changed.
        steps: Number of gradient steps.
        step_size: Length of a step in the threat's norm: a number, `8/255`, or in units of the radius, `eps/4`.
        start: `random` in the ball, `clean` at the image, or `gaussian` noise of deviation 0.001 around it.
        loss: What to ascend, `(logits, y) -> (N,)`; see `lit_robust.losses`.
        targeted: Descend the loss instead: `y` is then the class to reach, and reaching it counts as broken.
        l1_share: For L1, the share of coordinates that a step is spread over.

    Raises:
        UserError: If `steps` is negative or the step size is not above 0.
    """

    threat: ThreatModel
    steps: int = 10
    step_size: Fraction | float | str = "eps/4"
    start: Start = "random"
    loss: Loss = cross_entropy
    targeted: bool = False
    l1_share: float = 0.01

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise UserError(f"expected steps to be 0 or more, got {self.steps}")
        if self.threat.norm == "l0":
            raise UserError("L0 has no gradient step; use a minimum-norm attack")
        if not 0 < self.l1_share <= 1:
            raise UserError(f"expected l1_share to be above 0 and at most 1, got {self.l1_share}")
        radius.parse_step(self.step_size, self.threat.exact)

    @property
    def threat_model(self) -> ThreatModel:
        """The images that it may answer with."""
        return self.threat

    @property
    def label(self) -> str:
        """A short name."""
        return f"{type(self).__name__}-{self.steps}" if self.steps > 1 else type(self).__name__

    def __str__(self) -> str:
        step = radius.show(radius.parse_step(self.step_size, self.threat.exact))
        return f"{self.label} {self.threat}, step {step}, {self.start} start"

    def passes(self, classes: int) -> tuple[int, int] | None:
        """The most forward and backward passes that a sample takes."""
        return self.steps, self.steps

    def search(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """The last iterate, as adversarial training uses it."""
        return self._run(model, x, y, noise, survivors=None)

    def falsify(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise, *, leave: bool = True) -> Tensor:
        """The first adversarial of each sample, or the last iterate."""
        return self._run(model, x, y, noise, survivors=Survivors(x, leave=leave))

    def _run(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise, survivors: Survivors | None) -> Tensor:
        x_adv = self._first(x, noise)
        for step in range(self.steps):
            x_adv.requires_grad_()
            with noise.keyed(step):
                logits = model(x_adv)
            going = None
            if survivors is not None:
                going = survivors.record(x_adv.detach(), self.broken(logits, y))
                if not going.any():
                    return survivors.result
            loss = self.loss(logits, y).sum()
            (grad,) = torch.autograd.grad(-loss if self.targeted else loss, x_adv)
            x_adv = x_adv.detach()
            if going is not None and not going.all():
                x, y, x_adv, grad, noise = x[going], y[going], x_adv[going], grad[going], noise.rows(going)
            x_adv = self._step(x_adv, grad.nan_to_num(0.0, 0.0, 0.0), x)
        return x_adv if survivors is None else survivors.finish(x_adv)

    def _first(self, x: Tensor, noise: Noise) -> Tensor:
        if self.start == "random":
            return self.threat.random_point(x, noise)
        if self.start == "gaussian":
            return self.threat.project(x + _GAUSSIAN_START * noise.normal("start", x.shape[1:], dtype=x.dtype), x)
        return x.clone()

    def _step(self, x_adv: Tensor, grad: Tensor, x: Tensor) -> Tensor:
        size = float(radius.parse_step(self.step_size, self.threat.exact))
        direction = self.threat.ascent(grad, x_adv, l1_share=self.l1_share)
        return self.threat.project(x_adv.add(direction, alpha=size), x)


@dataclass(frozen=True, kw_only=True)
class FGSM(PGD):
    """Fast gradient sign method (Goodfellow et al., 2015): one step of length eps from the image."""

    steps: int = 1
    step_size: Fraction | float | str = "eps"
    start: Start = "clean"


@dataclass(frozen=True, kw_only=True)
class RFGSM(PGD):
    """FGSM from a random start with a step of 1.25 eps (Wong et al., 2020), the attack of fast adversarial training."""

    steps: int = 1
    step_size: Fraction | float | str = "1.25*eps"


@dataclass(frozen=True, kw_only=True)
class BIM(PGD):
    """Basic iterative method (Kurakin et al., 2017): PGD from the image itself."""

    start: Start = "clean"


@dataclass(frozen=True, kw_only=True)
class RadialPGD(PGD):
    """PGD as the dissertation's attack library has it for Lp norms, for its tables.

    The step is the gradient divided by its own norm, cut by the box before it is taken; the perturbation is then scaled
    back towards the image. For L1 that is neither the steepest step nor the Euclidean projection.

    Args:
        threat: As for `PGD`.
        steps: As for `PGD`.
        step_size: As for `PGD`.
        start: As for `PGD`.
        loss: As for `PGD`.
        targeted: As for `PGD`.
        l1_share: Unused.
        onto: `ball` scales only what lies outside the ball, `sphere` always scales to its surface; in L∞ both clamp.
    """

    onto: Literal["ball", "sphere"] = "ball"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threat.norm == "box":
            raise UserError("RadialPGD scales to a ball; the box has none")

    def _first(self, x: Tensor, noise: Noise) -> Tensor:
        if self.start != "random" or self.threat.norm == "linf":
            return super()._first(x, noise)
        delta = 2 * noise.uniform("start", x.shape[1:], dtype=x.dtype) - 1
        return (x + self.threat.radius * delta / self._norm(delta)).clamp(0, 1)

    def _step(self, x_adv: Tensor, grad: Tensor, x: Tensor) -> Tensor:
        if self.threat.norm == "linf":
            return super()._step(x_adv, grad, x)
        size = float(radius.parse_step(self.step_size, self.threat.exact))
        delta = (x_adv + size * grad / self._norm(grad)).clamp(0, 1) - x
        scale = self.threat.radius / self._norm(delta)
        return (x + delta * (scale if self.onto == "sphere" else scale.clamp(max=1))).clamp(0, 1)

    def _norm(self, v: Tensor) -> Tensor:
        """Norm of each sample as (N, 1, 1, 1)."""
        order = {"l2": 2, "l1": 1}[self.threat.norm]
        norms: Tensor = torch.linalg.vector_norm(v.flatten(1), ord=order, dim=1)
        return norms.clamp(min=1e-12).view(-1, *[1] * (v.ndim - 1))
