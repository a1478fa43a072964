"""Attacks that look for the nearest adversarial, at whatever distance it is."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from fractions import Fraction
from typing import final

import torch
from torch import Tensor, nn

from lit_robust.attacks.base import Attack, prepare
from lit_robust.attacks.eot import EOT
from lit_robust.attacks.through import Through
from lit_robust.sampling import CHECK
from lit_robust.threat import LpNorm, ThreatModel


@dataclass(frozen=True, kw_only=True)
class MinimumNormAttack(Attack, ABC):
    """Answers with the nearest adversarial that it finds, and with the clean image where it finds none.

    A sample that is wrong already is its own nearest adversarial, at distance 0. In a search samples never leave early,
    since a nearer adversarial may follow; where only `eps` counts (`falsify`) they may leave within it.

    Args:
        norm: What distance is measured in.
        eps: Radius within which an adversarial counts in evaluation, as for `ThreatModel`; the search is the same, and
            farther adversarials are still answers. None counts any distance.

    Raises:
        UserError: If `norm` or `eps` cannot be.
    """

    norm: LpNorm
    eps: Fraction | float | str | None = None

    def __post_init__(self) -> None:
        _ = self.counted

    @property
    def threat_model(self) -> ThreatModel:
        """Any image in [0, 1], measured in the norm."""
        return ThreatModel(None, self.norm)

    @property
    def counted(self) -> ThreatModel:
        """Where an adversarial counts: within `eps`, or at any distance."""
        return ThreatModel(self.eps, self.norm)

    def _within(self, leave: bool) -> float | None:
        """Distance at which a sample may leave a search that only asks whether it can be broken; see `Nearest`."""
        return self.counted.radius if leave and self.eps is not None else None

    @final
    def distances(self, model: nn.Module, x: Tensor, y: Tensor, *, key: Tensor | None = None) -> Tensor:
        """Distance of the nearest adversarial found for each sample.

        Args:
            model: As for a call.
            x: As for a call.
            y: As for a call.
            key: As for a call.

        Returns:
            (N,) in float64; 0 for samples that are wrong already, infinite where none was found or where the one found
            did not stand the check.
        """
        x, y, noise = prepare(x, y, key)
        x_adv = self(model, x, y, key=noise.key)
        with torch.no_grad(), noise.keyed(CHECK):
            broken = self.broken(model(x_adv), y)
        distance = self.threat_model.distance(x_adv, x)
        return distance.masked_fill(~broken.to(distance.device), torch.inf)


def minimum_norm(attack: Attack) -> MinimumNormAttack | None:
    """The minimum-norm attack that an attack is, itself, on the mean model of `EOT` or `Through` others; else None."""
    inner = attack
    while isinstance(inner, EOT | Through):
        inner = inner.attack
    return inner if isinstance(inner, MinimumNormAttack) else None


def counted_in(attack: Attack) -> ThreatModel:
    """The threat model that decides whether a sample counts as broken: `counted` of a minimum-norm attack."""
    nearest = minimum_norm(attack)
    return attack.threat_model if nearest is None else nearest.counted
