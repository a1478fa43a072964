"""The same attack at another radius."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from fractions import Fraction
from typing import Any

from lit_robust import radius
from lit_robust.attacks.base import Attack
from lit_robust.attacks.minimum_norm import MinimumNormAttack
from lit_robust.errors import UserError
from lit_robust.threat import ThreatModel


def at_radius(attack: Attack, eps: Fraction | float | str) -> Attack:
    """The same attack within another radius of the same norm; what runs other attacks passes the radius on to them.

    A step size in units of the radius, such as `eps/4`, follows; one in pixel units stays.

    Args:
        attack: The attack.
        eps: The radius, as for `ThreatModel`.

    Raises:
        UserError: If the attack has no radius, or cannot have this one.
    """
    changed: dict[str, Any] = {}
    for field in fields(attack):
        value = getattr(attack, field.name)
        if isinstance(value, ThreatModel) and value.eps is not None:
            changed[field.name] = replace(value, eps=eps)
        elif isinstance(value, Attack):
            changed[field.name] = at_radius(value, eps)
        elif isinstance(value, Sequence) and value and all(isinstance(each, Attack) for each in value):
            changed[field.name] = [at_radius(each, eps) for each in value]
    if isinstance(attack, MinimumNormAttack):
        changed["eps"] = radius.parse(eps)
    if not changed:
        raise UserError(f"expected an attack with a radius, got {attack}")
    whole: Any = attack
    other: Attack = replace(whole, **changed)
    return other
