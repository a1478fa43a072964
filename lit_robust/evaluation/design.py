"""Attacks beyond the radius that a front end was designed for."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from torch import nn

from lit_robust import radius
from lit_robust.attacks import Attack
from lit_robust.attacks.minimum_norm import counted_in
from lit_robust.nn.code_activation import CodeActivation


def design_notes(network: nn.Module, attacks: Mapping[str, Attack]) -> list[str]:
    """A line for each L∞ attack that is stronger than a sparse code of the network was designed for.

    What the activation's threshold keeps from happening within its own eps can happen beyond it; see `CodeActivation`.

    Args:
        network: The network.
        attacks: Attacks by the names of their rows.
    """
    notes = []
    for activation in (module for module in network.modules() if isinstance(module, CodeActivation)):
        for name, attack in attacks.items():
            threat = counted_in(attack)
            if attack.adversarial and threat.norm == "linf" and threat.eps is not None:
                consequence = _consequence(threat.exact, activation)
                if consequence is not None:
                    notes.append(f"{name}: {threat} is above the {radius.show(activation.eps)} {consequence}")
    return notes


def _consequence(eps: Fraction, activation: CodeActivation) -> str | None:
    """What a perturbation of radius `eps` can do that one of the design's radius cannot."""
    if eps <= activation.eps:
        return None
    designed = "that the sparse code was designed for"
    threshold = Fraction(activation.beta) * activation.eps
    if eps > 2 * threshold:
        return f"{designed}: entries of the code can change their sign"
    if eps > threshold:
        return f"{designed}: the coefficient behind an entry can change its sign"
    return designed
