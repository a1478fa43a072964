"""Expectation over transformation: attacks on random models through the mean of several draws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from torch import Tensor, nn

from lit_robust.attacks.base import Attack
from lit_robust.errors import UserError
from lit_robust.expectation import Expectation, Reduce
from lit_robust.sampling import Noise
from lit_robust.threat import ThreatModel


@dataclass(frozen=True, kw_only=True)
class EOT(Attack):
    """An attack that sees the mean of several draws of a random model (Athalye et al., 2018).

    Args:
        attack: The attack.
        draws: Forward passes a step.
        reduce: What is averaged: see `Expectation`. `log_probs` with `loss: lit_robust.losses.negative_log_likelihood`
            climbs the expected loss, `probs` the loss of the ensemble.

    Raises:
        UserError: If `draws` is below 1.
    """

    attack: Attack
    draws: int
    reduce: Reduce = "probs"

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise UserError(f"expected draws to be at least 1, got {self.draws}")
        if self.reduce not in get_args(Reduce):
            raise UserError(f"expected reduce to be one of {', '.join(get_args(Reduce))}, got {self.reduce!r}")

    def __str__(self) -> str:
        return f"{self.attack}, mean of {self.draws} draws ({self.reduce})"

    @property
    def label(self) -> str:
        """A short name."""
        return f"{self.attack.label} EOT-{self.draws}"

    @property
    def threat_model(self) -> ThreatModel:
        """The images that it may answer with."""
        return self.attack.threat_model

    @property
    def adversarial(self) -> bool:
        """As its attack."""
        return self.attack.adversarial

    @property
    def targeted(self) -> bool:
        """Whether `y` is the class to reach."""
        return self.attack.targeted

    def search(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """The attack on the mean model."""
        return self.attack.search(Expectation(model, self.draws, self.reduce), x, y, noise)

    def falsify(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise, *, leave: bool = True) -> Tensor:
        """The attack on the mean model; a sample leaves when the mean is wrong, not one lucky draw."""
        return self.attack.falsify(Expectation(model, self.draws, self.reduce), x, y, noise, leave=leave)
