"""PGD along gradients that are smoothed over points around the current one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from lit_robust import radius
from lit_robust.attacks.gradient import PGD
from lit_robust.attacks.survivors import Survivors
from lit_robust.errors import UserError
from lit_robust.sampling import Noise

Vote = Literal["sign", "mean"]


@dataclass(frozen=True, kw_only=True)
class SmoothedPGD(PGD):
    """PGD whose gradient is taken at random points around the current one, in L∞ (dissertation, section 4.2).

    The points are uniform in a box whose half width is the step size, cut by the pixel box. The dissertation's text
    averages their gradients (`mean`); its code lets the signs vote (`sign`), which one large gradient cannot decide.

    Args:
        threat: As for `PGD`, in L∞ or the box.
        steps: As for `PGD`.
        step_size: As for `PGD`.
        start: As for `PGD`.
        loss: As for `PGD`.
        targeted: As for `PGD`.
        l1_share: Unused.
        samples: Points a step.
        vote: What is summed over them: the signs of the gradients, or the gradients.

    Raises:
        UserError: As for `PGD`, or if the norm is another one, there is no point, or no such vote.
    """

    samples: int = 40
    vote: Vote = "sign"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threat.norm not in ("linf", "box"):
            raise UserError(f"the box that SmoothedPGD draws from is as wide as a step in L∞; got {self.threat}")
        if self.samples < 1:
            raise UserError(f"expected samples to be at least 1, got {self.samples}")
        if self.vote not in get_args(Vote):
            raise UserError(f"expected vote to be one of {', '.join(get_args(Vote))}, got {self.vote!r}")

    def __str__(self) -> str:
        return f"{super().__str__()}, {self.vote} of gradients at {self.samples} points"

    def passes(self, classes: int) -> tuple[int, int] | None:
        """The most forward and backward passes that a sample takes; an evaluation looks at the iterate besides."""
        return self.steps * (self.samples + 1), self.steps * self.samples

    def _run(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise, survivors: Survivors | None) -> Tensor:
        x_adv = self._first(x, noise)
        for step in range(self.steps):
            if survivors is not None:
                with torch.no_grad(), noise.keyed(step):
                    going = survivors.record(x_adv, self.broken(model(x_adv), y))
                if not going.any():
                    return survivors.result
                x, y, x_adv, noise = x[going], y[going], x_adv[going], noise.rows(going)
            x_adv = self._step(x_adv, self._smoothed(model, x_adv, y, noise, step), x)
        return x_adv if survivors is None else survivors.finish(x_adv)

    def _smoothed(self, model: nn.Module, x_adv: Tensor, y: Tensor, noise: Noise, step: int) -> Tensor:
        """The sum of the votes of all points, (N, C, H, W); each point's graph lives for its own pass alone."""
        width, total = float(radius.parse_step(self.step_size, self.threat.exact)), torch.zeros_like(x_adv)
        for sample in range(self.samples):
            u = noise.uniform("smoothing", x_adv.shape[1:], step=step, draw=sample, dtype=x_adv.dtype)
            point = (x_adv + width * (2 * u - 1)).clamp_(0, 1).requires_grad_()
            with noise.keyed(step, sample + 1):  # a random layer draws anew at every point
                loss = self.loss(model(point), y).sum()
            (grad,) = torch.autograd.grad(-loss if self.targeted else loss, point)
            grad = grad.nan_to_num(0.0, 0.0, 0.0)
            total += grad.sign() if self.vote == "sign" else grad
        return total
