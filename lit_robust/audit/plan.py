"""What an audit attacks, in which ball and with how much effort, and the attacks that several checks share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from torch import nn

from lit_robust.attacks import APGD, EOT, PGD, Attack, Restarts, Square, Through, Transfer
from lit_robust.audit.repeated import SingleRestart
from lit_robust.errors import UserError
from lit_robust.losses import cross_entropy, dlr, negative_margin
from lit_robust.threat import ThreatModel

PGD_ROW = "pgd"  # the attack that a robust accuracy is usually quoted under


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How hard an audit attacks.

    Args:
        steps: Gradient steps of its PGD; a quarter of them and 2.5 times as many are tried too.
        auto_steps: Gradient steps of Auto-PGD with each of two losses.
        restarts: Starts of PGD.
        queries: Queries of the Square Attack.
        points: Random points in the ball.
        draws: Draws of a random network in each step; a quarter of them and four times as many are tried too.
        most_combinations: Combinations of backward passes that are tried, at most.
        substitute_images: Training images that the substitute network learns from, at most.

    Raises:
        UserError: If a number is below 1, or there are fewer than 2 restarts.
    """

    steps: int = 40
    auto_steps: int = 50
    restarts: int = 6
    queries: int = 1000
    points: int = 50
    draws: int = 8
    most_combinations: int = 24
    substitute_images: int = 6000

    def __post_init__(self) -> None:
        low = {name: value for name, value in vars(self).items() if value < 1}
        if low or self.restarts < 2:
            raise UserError(f"expected numbers of the audit's effort of at least 1, and 2 restarts or more, got {self}")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What an audit attacks, and how.

    Attributes:
        threat: The ball: in L∞, L2 or L1, with a radius.
        shape: Shape of one image, (C, H, W).
        classes: Number of classes.
        random: Whether the network draws noise when it predicts.
        effort: How hard it is attacked.
        backward: Backward passes that gradient attacks go through, by names of layers; none for the network's own.
        combinations: All combinations of backward passes that the network offers, by short names.
        sources: Networks that adversarials are transferred from, by name.
        substitute: Whether the one source is a substitute that the audit has trained.
    """

    threat: ThreatModel
    shape: tuple[int, int, int]
    classes: int = 10
    random: bool = False
    effort: Effort = field(default_factory=Effort)
    backward: Mapping[str, str] = field(default_factory=dict)
    combinations: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    sources: Mapping[str, nn.Module] = field(default_factory=dict)
    substitute: bool = False

    @property
    def largest(self) -> ThreatModel:
        """The ball that holds every image."""
        d = math.prod(self.shape)
        diameter = {"linf": Fraction(1), "l2": Fraction(math.isqrt(d - 1) + 1), "l1": Fraction(d)}[self.threat.norm]
        return ThreatModel(diameter, self.threat.norm)

    def ball(self, times: Fraction | int) -> ThreatModel:
        """The ball of a multiple of the radius, or the one that holds every image if that is smaller."""
        return ThreatModel(min(times * self.threat.exact, self.largest.exact), self.threat.norm)

    def pgd(self, *, steps: int | None = None, threat: ThreatModel | None = None, draws: int | None = None) -> Attack:
        """PGD on the cross-entropy, with steps of 2.5 radii over their number (Madry et al., 2018).

        Args:
            steps: Number of steps; None for the audit's.
            threat: The ball; None for the audit's.
            draws: Draws of a random network; None for the audit's.
        """
        steps = steps or self.effort.steps
        return self.seen(self._pgd(steps, threat or self.threat), draws)

    def seen(self, attack: Attack, draws: int | None = None, backward: Mapping[str, str] | None = None) -> Attack:
        """An attack as it sees the network: through the backward passes of the audit, over the draws of a random one.

        Args:
            attack: The attack.
            draws: Draws of a random network; None for the audit's.
            backward: Other backward passes than the audit's.
        """
        ways = self.backward if backward is None else backward
        if ways:
            attack = Through(attack=attack, backward=dict(ways))
        return EOT(attack=attack, draws=draws or self.effort.draws) if self.random else attack

    def restarts(self) -> dict[str, Attack]:
        """PGD with each of its starts, the first being PGD itself."""
        later = range(1, self.effort.restarts)
        return {PGD_ROW: self.pgd(), **{f"restart {k}": SingleRestart(attack=self.pgd(), restart=k) for k in later}}

    @property
    def step_counts(self) -> list[int]:
        """One step, a quarter of the steps of PGD, these, and 2.5 times as many; ascending, each once."""
        steps = self.effort.steps
        return sorted({1, max(1, steps // 4), steps, max(steps + 1, 5 * steps // 2)})

    def by_steps(self) -> dict[str, Attack]:
        """PGD with fewer and more steps, in the order of `step_counts`."""
        return {PGD_ROW if n == self.effort.steps else f"pgd-{n}": self.pgd(steps=n) for n in self.step_counts}

    def white_box(self) -> dict[str, Attack]:
        """All attacks in the ball that use the gradient: PGD with several numbers of steps and starts, and Auto-PGD."""
        losses = {"apgd-ce": cross_entropy, "apgd-dlr": dlr if self.classes >= 3 else negative_margin}
        auto = {
            name: self.seen(APGD(threat=self.threat, steps=self.effort.auto_steps, loss=loss))
            for name, loss in losses.items()
        }
        return {**self.by_steps(), **self.restarts(), **auto}

    def square(self) -> Attack:
        """The Square Attack, which takes no gradient (Andriushchenko et al., 2020)."""
        return Square(threat=self.threat, queries=self.effort.queries)

    def random_points(self) -> Attack:
        """The worst of random points in the ball; it asks only what the network says to them."""
        return Restarts(attack=PGD(threat=self.threat, steps=0), n=self.effort.points)

    def transferred(self) -> dict[str, Attack]:
        """PGD on each source, for the network."""
        inner = self._pgd(self.effort.steps, self.threat)
        return {f"from {name}": Transfer(attack=inner, surrogates=[s]) for name, s in self.sources.items()}

    def through(self) -> dict[str, Attack]:
        """PGD through each combination of backward passes that the network offers; none if there is no choice."""
        if len(self.combinations) < 2:
            return {}
        chosen = list(self.combinations.items())[: self.effort.most_combinations]
        inner = self._pgd(self.effort.steps, self.threat)
        return {f"through {label}": self.seen(inner, backward=ways) for label, ways in chosen}

    @staticmethod
    def _pgd(steps: int, threat: ThreatModel) -> PGD:
        return PGD(threat=threat, steps=steps, step_size=f"2.5*eps/{steps}" if steps > 2 else "eps")
