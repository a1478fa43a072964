"""Attacks made of attacks: restarts, and the worst of several."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lit_robust.attacks.base import Attack
from lit_robust.attacks.minimum_norm import counted_in
from lit_robust.attacks.survivors import Survivors
from lit_robust.errors import UserError
from lit_robust.losses import margin
from lit_robust.sampling import BETWEEN, Noise
from lit_robust.threat import ThreatModel


@dataclass(frozen=True, kw_only=True)
class _Worst(Attack):
    """The worst case over attacks for each sample; a subclass says which attacks, with which noise."""

    @property
    @abstractmethod
    def _first(self) -> Attack: ...

    @abstractmethod
    def _members(self, noise: Noise) -> Sequence[tuple[Attack, Noise]]: ...

    @property
    def threat_model(self) -> ThreatModel:
        """The images that it may answer with."""
        return counted_in(self._first)

    @property
    def adversarial(self) -> bool:
        """As its attacks."""
        return self._first.adversarial

    @property
    def targeted(self) -> bool:
        """Whether `y` is the class to reach."""
        return self._first.targeted

    def passes(self, classes: int) -> tuple[int, int] | None:
        """The most forward and backward passes that a sample takes."""
        every = [attack.passes(classes) for attack, _ in self._members(Noise(torch.zeros(1, dtype=torch.int64)))]
        known = [counts for counts in every if counts is not None]
        if len(known) < len(every):
            return None
        return sum(forwards + 1 for forwards, _ in known), sum(backwards for _, backwards in known)  # 1 to compare

    def search(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """The candidate of smallest margin to `y` (of the largest for targeted attacks)."""
        worst, lowest = x, torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
        for attack, streams in self._members(noise):
            x_adv = self._inside(attack.search(model, x, y, streams), x)
            with torch.no_grad(), streams.keyed(BETWEEN):
                value = margin(model(x_adv), y) * (-1 if self.targeted else 1)
            better = value < lowest
            worst = torch.where(better.view(-1, *[1] * (x.ndim - 1)), x_adv, worst)
            lowest = torch.where(better, value, lowest)
        return worst

    def falsify(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise, *, leave: bool = True) -> Tensor:
        """The first adversarial that any of them finds, else the last one's answer."""
        survivors, x_adv, rows = Survivors(x, leave=leave), x, torch.arange(len(x), device=x.device)
        for attack, streams in self._members(noise):
            streams = streams.rows(rows)
            x_adv = self._inside(attack.falsify(model, x, y, streams, leave=leave), x)
            with torch.no_grad(), streams.keyed(BETWEEN):
                going = survivors.record(x_adv, self.broken(model(x_adv), y))
            if not going.any():
                return survivors.result
            x, y, x_adv, rows = x[going], y[going], x_adv[going], rows[going]
        return survivors.finish(x_adv)

    def _inside(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """What lies within the radius; a minimum-norm attack's answer beyond it is none, and the image stays."""
        inside = self.threat_model.contains(x_adv, x)
        return torch.where(inside.view(-1, *[1] * (x.ndim - 1)), x_adv, x)


@dataclass(frozen=True, kw_only=True)
class WorstOf(_Worst):
    """The worst case of several attacks for each sample.

    Args:
        attacks: Attacks of one threat model, in the order in which they run.

    Raises:
        UserError: If there is none, or their threat models differ.
    """

    attacks: Sequence[Attack]

    def __post_init__(self) -> None:
        threats = {counted_in(attack) for attack in self.attacks}
        if len(threats) != 1:
            named = ", ".join(sorted(map(str, threats)))
            raise UserError(
                f"expected one or more attacks of one threat model, got {named or 'none'}; "
                "attacks of other threat models are entries of their own in RobustEval"
            )
        if len({attack.targeted for attack in self.attacks}) != 1:
            raise UserError("expected attacks that are all targeted or all untargeted, got both")
        _check_radius(self.attacks[0])
        if len({attack.adversarial for attack in self.attacks}) != 1:
            raise UserError("expected adversaries or noise, got both: noise is reported beside adversaries, not as one")

    def __str__(self) -> str:
        return "worst of (" + " | ".join(str(attack) for attack in self.attacks) + ")"

    @property
    def _first(self) -> Attack:
        return self.attacks[0]

    def _members(self, noise: Noise) -> Sequence[tuple[Attack, Noise]]:
        return [(attack, noise) for attack in self.attacks]


@dataclass(frozen=True, kw_only=True)
class Restarts(_Worst):
    """An attack repeated with fresh noise: the worst case over its restarts for each sample.

    Args:
        attack: What is repeated.
        n: Number of restarts; 1 is the attack itself.

    Raises:
        UserError: If `n` is below 1.
    """

    attack: Attack
    n: int

    def __post_init__(self) -> None:
        if self.n < 1:
            raise UserError(f"expected at least 1 restart, got {self.n}")
        _check_radius(self.attack)

    @property
    def label(self) -> str:
        """A short name."""
        return f"{self.attack.label} x {self.n}"

    def __str__(self) -> str:
        return f"{self.attack}, {self.n} restarts"

    @property
    def _first(self) -> Attack:
        return self.attack

    def _members(self, noise: Noise) -> Sequence[tuple[Attack, Noise]]:
        return [(self.attack, noise.restarted(restart)) for restart in range(self.n)]


def _check_radius(attack: Attack) -> None:
    """Refuses distances: of several answers the first or the surest is kept, not the nearest."""
    if counted_in(attack).eps is None:
        raise UserError(
            f"{attack.label} looks for the nearest adversarial at any distance, which restarts and worst cases would "
            "not keep; set its eps, or give it an entry of its own"
        )
