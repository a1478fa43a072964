"""The rows of an evaluation: an ensemble of attacks becomes one row a member."""

from __future__ import annotations

from collections.abc import Mapping

from lit_robust.attacks import Attack, AutoAttack
from lit_robust.attacks.through import Through

_ALL = "all"


def rows(attacks: Mapping[str, Attack], *, cascade: bool) -> tuple[dict[str, Attack], dict[str, str]]:
    """Attacks by the name of their row, and the cascade that each belongs to.

    The members of an `AutoAttack` are rows called `<its name>/<member>` and a cascade of their own, also through chosen
    backward passes.

    Args:
        attacks: Attacks by name.
        cascade: Whether all attacks are one cascade.

    Returns:
        Attacks by row, and names of cascades by row; rows that are in no cascade are left out there.
    """
    found: dict[str, Attack] = {}
    cascades: dict[str, str] = {}
    for name, attack in attacks.items():
        members = {f"{name}/{member}": part for member, part in _members(attack).items()}
        found |= members or {name: attack}
        cascades |= dict.fromkeys(members, name)
    return found, (dict.fromkeys(found, _ALL) if cascade else cascades)


def _members(attack: Attack) -> dict[str, Attack]:
    """The members of an ensemble by name; none of any other attack."""
    if isinstance(attack, AutoAttack):
        return dict(attack.members)
    if isinstance(attack, Through):
        inner = _members(attack.attack)
        return {member: Through(attack=part, backward=attack.backward) for member, part in inner.items()}
    return {}
