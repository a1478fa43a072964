"""The attacks that an attack is made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields

from lit_robust.attacks import Attack


def parts(attack: Attack) -> Iterator[Attack]:
    """An attack's innermost attacks: those that it runs, or itself if it runs none.

    Args:
        attack: Any attack.
    """
    inner = list(inside(attack))
    if not inner:
        yield attack
    for each in inner:
        yield from parts(each)


def inside(attack: Attack) -> Iterator[Attack]:
    """The attacks that an attack runs by itself: those among its settings, and the members of an ensemble.

    Args:
        attack: Any attack.
    """
    members = getattr(attack, "members", None)
    if isinstance(members, Mapping):
        yield from (member for member in members.values() if isinstance(member, Attack))
    for field in fields(attack):
        value = getattr(attack, field.name)
        if isinstance(value, Attack):
            yield value
        elif isinstance(value, Sequence) and not isinstance(value, str):
            yield from (each for each in value if isinstance(each, Attack))
