"""Adaptive attacks: through every combination of backward passes that a network offers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from lit_robust.attacks.base import Attack
from lit_robust.attacks.combinations import combinations, labels
from lit_robust.attacks.minimum_norm import counted_in
from lit_robust.attacks.through import Through
from lit_robust.attacks.worst import WorstOf
from lit_robust.attacks.wrapper import AttackWrapper
from lit_robust.errors import UserError
from lit_robust.sampling import Noise
from lit_robust.threat import ThreatModel


@dataclass(frozen=True, kw_only=True)
class Adaptive(AttackWrapper):
    """An attack through every combination of the backward passes of a network, and the worst case over them.

    A gradient that is zero or misleads makes a network look robust (Athalye et al., 2018), and which surrogate is the
    strongest is known only once all were tried. An evaluation runs every combination on the first test images and the
    strongest on all of them, each a row of its own; what was found on the first images counts too. Called in a plain
    loop it runs every combination on every sample.

    Args:
        attack: What runs through each combination; an attack with a radius, also `AutoAttack`, `EOT` or `WorstOf`.
        surrogates: Further choices by patterns of layer names, such as `{quantize: [identity, smooth(0.1)]}`, for
            layers that name no backward passes, or in place of those that they name; see `Through`. All layers of a
            pattern take the same.
        screen: Test images that every combination runs on.
        keep: Combinations that run on all images. With no more than these there is nothing to screen.

    Raises:
        UserError: If a number is below 1, or accuracies under the attack cannot be compared: it has no radius.
    """

    surrogates: Mapping[str, Sequence[str]] = field(default_factory=dict)
    screen: int = 50
    keep: int = 3

    def __post_init__(self) -> None:
        if self.screen < 1 or self.keep < 1:
            raise UserError(f"expected screen and keep to be at least 1, got {self.screen} and {self.keep}")
        if isinstance(self.attack, Adaptive):
            raise UserError("expected an attack to run through backward passes, got one that is adaptive already")
        if counted_in(self.attack).eps is None:
            raise UserError(
                f"{self.attack.label} looks for the nearest adversarial at any distance, and combinations are compared "
                "by accuracies within a radius; set its eps"
            )

    def __str__(self) -> str:
        return f"{self.attack}, adaptive"

    @property
    def label(self) -> str:
        """A short name."""
        return f"{self.attack.label} adaptive"

    @property
    def threat_model(self) -> ThreatModel:
        """The images that it may answer with."""
        return counted_in(self.attack)

    def passes(self, classes: int) -> None:
        """Nobody knows before the network is known, and with it the number of combinations."""

    def members(self, model: nn.Module) -> dict[str, Attack]:
        """The attack through each combination, by short names; the attack itself if the network offers no choice.

        Args:
            model: The network under attack.

        Raises:
            UserError: If `surrogates` do not fit the network, or there are too many combinations.
        """
        found = combinations(model, self.surrogates)
        named = zip(labels(model, found), found, strict=True)
        return {label: Through(attack=self.attack, backward=each) if each else self.attack for label, each in named}

    def search(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """The candidate of smallest margin to `y`, over all combinations."""
        return self._worst(model).search(model, x, y, noise)

    def falsify(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise, *, leave: bool = True) -> Tensor:
        """The first adversarial that any combination finds, else the last one's answer."""
        return self._worst(model).falsify(model, x, y, noise, leave=leave)

    def _worst(self, model: nn.Module) -> WorstOf:
        return WorstOf(attacks=list(self.members(model).values()))
