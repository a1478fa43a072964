"""What attacks made of one attack share."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass

from lit_robust.attacks.base import Attack
from lit_robust.threat import ThreatModel


@dataclass(frozen=True, kw_only=True)
class AttackWrapper(Attack, ABC):
    """An attack that runs another one: on what it searches, and what `y` is, the other decides.

    Args:
        attack: The attack that it runs.
    """

    attack: Attack

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

    def passes(self, classes: int) -> tuple[int, int] | None:
        """The most forward and backward passes that a sample takes."""
        return self.attack.passes(classes)
