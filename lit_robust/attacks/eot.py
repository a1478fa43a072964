"""Expectation over transformation: attacks on random models through the mean of several draws."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from lit_robust.attacks.base import Attack
from lit_robust.attacks.through import Through
from lit_robust.attacks.wrapper import AttackWrapper
from lit_robust.errors import UserError
from lit_robust.expectation import Expectation, passes, single_draws
from lit_robust.sampling import Noise
from lit_robust.threat import ThreatModel

Reduce = Literal["probs", "log_probs", "logits", "losses"]
Gradients = Literal["sum", "normalized", "sign"]
_L2 = ThreatModel(None, "l2")


@dataclass(frozen=True, kw_only=True)
class EOT(AttackWrapper):
    """An attack that sees the mean of several draws of a random model (Athalye et al., 2018).

    Args:
        attack: The attack.
        draws: Forward passes a step.
        reduce: What is averaged: see `Expectation`. `log_probs` with `loss: lit_robust.losses.negative_log_likelihood`
            climbs the expected loss, `probs` the loss of the ensemble. `losses` climbs the mean of the attack's own
            loss over the draws, whichever it is, and takes the ensemble's prediction.
        gradients: How the draws' gradients in the image become one: their `sum` as it is; `normalized`, the sum of each
            over its L2 norm in the image, so that no draw outweighs the others (dissertation, section 4.2, with
            `losses`); or `sign`, the sum of their signs, a vote. The last two say nothing of how steep a loss is, which
            minimum-norm attacks have to know.

    Raises:
        UserError: If `draws` is below 1, an option is none of those named, `losses` are to be averaged of an attack
            that has no `loss` to choose, or a minimum-norm attack would see gradients of no length.
    """

    draws: int
    reduce: Reduce = "probs"
    gradients: Gradients = "sum"

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise UserError(f"expected draws to be at least 1, got {self.draws}")
        for name, known in (("reduce", get_args(Reduce)), ("gradients", get_args(Gradients))):
            if getattr(self, name) not in known:
                raise UserError(f"expected {name} to be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if self.reduce == "losses" and not hasattr(_climber(self.attack), "loss"):
            raise UserError(f"{self.attack.label} has no loss whose mean could be climbed; choose another reduce")
        if self.gradients != "sum" and self.attack.threat_model.eps is None:
            raise UserError(f"{self.attack.label} needs the length of the gradient; leave gradients at sum")

    def __str__(self) -> str:
        gradients = "" if self.gradients == "sum" else f", {self.gradients} gradients"
        return f"{self.attack}, mean of {self.draws} draws ({self.reduce}{gradients})"

    @property
    def label(self) -> str:
        """A short name."""
        return f"{self.attack.label} EOT-{self.draws}"

    def passes(self, classes: int) -> tuple[int, int] | None:
        """The most forward and backward passes that a sample takes."""
        one = self.attack.passes(classes)
        return None if one is None else (self.draws * one[0], self.draws * one[1])

    def search(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """The attack on the mean model."""
        attack, mean = self._on(model)
        with single_draws(model):
            return attack.search(mean, x, y, noise)

    def falsify(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise, *, leave: bool = True) -> Tensor:
        """The attack on the mean model; a sample leaves when the mean is wrong, not one lucky draw."""
        attack, mean = self._on(model)
        with single_draws(model):
            return attack.falsify(mean, x, y, noise, leave=leave)

    def _on(self, model: nn.Module) -> tuple[Attack, Expectation]:
        if self.gradients != "sum":
            model = _OwnGradients(model, self.gradients)
        if self.reduce != "losses":
            return self.attack, Expectation(model, self.draws, self.reduce)
        drawn = _Drawn(model, self.draws)
        return _with_mean_loss(self.attack, drawn), Expectation(drawn, self.draws, "probs")


def _climber(attack: Attack) -> Attack:
    """The attack whose loss is climbed, whichever backward passes it goes through."""
    return _climber(attack.attack) if isinstance(attack, Through) else attack


def _with_mean_loss(attack: Attack, drawn: _Drawn) -> Attack:
    if isinstance(attack, Through):
        return replace(attack, attack=_with_mean_loss(attack.attack, drawn))
    chosen: Any = attack
    changed: Attack = replace(chosen, loss=_MeanLoss(chosen.loss, drawn))
    return changed


class _Drawn(nn.Module):
    """A random model that keeps the logits of its last passes."""

    def __init__(self, model: nn.Module, draws: int) -> None:
        super().__init__()
        self.model = model
        self.logits: deque[Tensor] = deque(maxlen=draws)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        self.logits.append(logits)
        return logits

    def passes(self, x: Tensor, n: int) -> Tensor:
        """The logits of n passes, as `passes` gives them."""
        logits = passes(self.model, x, n)
        self.logits.extend(logits.chunk(n))
        return logits


@dataclass(frozen=True)
class _MeanLoss:
    """The mean of a loss over the draws of the last pass, in place of the loss of the mean that it is called with."""

    loss: Callable[[Tensor, Tensor], Tensor]
    drawn: _Drawn

    def __call__(self, mean: Tensor, y: Tensor) -> Tensor:
        del mean
        return torch.stack([self.loss(logits, y) for logits in self.drawn.logits]).mean(0)


class _OwnGradients(nn.Module):
    """A model whose every pass sends back the gradient of each sample without its length, or its signs."""

    def __init__(self, model: nn.Module, form: Gradients) -> None:
        super().__init__()
        self.model, self.form = model, form

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(_Reshaped.apply(x, self.form))
        return logits


class _Reshaped(torch.autograd.Function):
    """The identity; its backward pass changes the gradient of each sample on its own, and leaves 0 what is 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, form: Gradients) -> Tensor:  # noqa: ANN401 - autograd's own type
        ctx.form = form
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        own = grad[0].nan_to_num(0.0, 0.0, 0.0)  # or one draw would take the others with it
        return (own.sign() if ctx.form == "sign" else _L2.ascent(own, own)), None
