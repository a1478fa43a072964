"""One restart of an attack on its own, so that what each restart adds can be seen."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from lit_robust.attacks.wrapper import AttackWrapper
from lit_robust.sampling import Noise


@dataclass(frozen=True, kw_only=True)
class SingleRestart(AttackWrapper):
    """The attack with the noise that a restart of `Restarts` would have; restart 0 is the attack itself.

    Args:
        attack: The attack.
        restart: Number of the restart.
    """

    restart: int

    @property
    def label(self) -> str:
        """A short name."""
        return f"{self.attack.label} restart {self.restart}"

    def search(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """The attack's answer."""
        return self.attack.search(model, x, y, noise.restarted(self.restart))

    def falsify(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise, *, leave: bool = True) -> Tensor:
        """The attack's answer; samples leave as in the attack itself."""
        return self.attack.falsify(model, x, y, noise.restarted(self.restart), leave=leave)
