"""The rows of an evaluation: an ensemble of attacks becomes one row a member."""

from __future__ import annotations

from collections.abc import Mapping

from lit_robust.attacks import Attack, AutoAttack

_ALL = "all"


def rows(attacks: Mapping[str, Attack], *, cascade: bool) -> tuple[dict[str, Attack], dict[str, str]]:
    """Attacks by the name of their row, and the cascade that each belongs to.

    The members of an `AutoAttack` are rows called `<its name>/<member>` and a cascade of their own.

    Args:
        attacks: Attacks by name.
        cascade: Whether all attacks are one cascade.

    Returns:
        Attacks by row, and names of cascades by row; rows that are in no cascade are left out there.
    """
    found: dict[str, Attack] = {}
    cascades: dict[str, str] = {}
    for name, attack in attacks.items():
        if isinstance(attack, AutoAttack):
            members = {f"{name}/{member}": part for member, part in attack.members.items()}
            found |= members
            cascades |= dict.fromkeys(members, name)
        else:
            found[name] = attack
    return found, (dict.fromkeys(found, _ALL) if cascade else cascades)
