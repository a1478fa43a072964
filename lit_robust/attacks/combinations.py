"""The combinations of backward passes that a network can be attacked through, and short names for them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product

from torch import nn

from lit_robust.backward import SurrogateLayer, covers, default, matching, surrogate
from lit_robust.errors import UserError

_MOST = 1000


def combinations(model: nn.Module, extra: Mapping[str, Sequence[str]] | None = None) -> list[dict[str, str]]:
    """Every combination of backward passes, each as `backward.chosen` takes it, in an order that never changes.

    Each `SurrogateLayer` takes what it offers; the first combination is that of all first choices. Where a layer takes
    a backward pass that replaces those of the layers inside it, these are left out.

    Args:
        model: Any module.
        extra: Choices by patterns of names, for layers that name none, or in place of what they offer. All layers of a
            pattern take the same choice.

    Raises:
        UserError: If a pattern names no layer, no choices or another pattern's layer, a layer has no such backward
            pass, or there are too many combinations.
    """
    layers, ways = _choices(model, extra or {})
    _check(layers, ways)
    found: dict[tuple[tuple[str, str], ...], None] = {}
    for choice in product(*ways.values()):
        picked = dict(zip(ways, choice, strict=True))
        outer = [name for key, way in picked.items() for name in layers[key] if covers(layers[key][name], way)]
        inside = tuple(f"{name}." for name in outer)
        seen = {key: way for key, way in picked.items() if not all(name.startswith(inside) for name in layers[key])}
        found[tuple(seen.items())] = None
    return [dict(each) for each in found]


def labels(model: nn.Module, found: Sequence[Mapping[str, str]]) -> list[str]:
    """Short names of combinations: what differs from the layers' own backward passes, or `default`.

    Args:
        model: The module that they are of.
        found: Combinations, as `combinations` gives them.
    """
    keys = list(dict.fromkeys(key for combination in found for key in combination))
    usual = {key: {default(layer) for layer in matching(model, key).values()} for key in keys}
    short = {key: _short(key, keys) for key in keys}
    return [
        " ".join(f"{short[key]}={way}" for key, way in combination.items() if usual[key] != {way}) or "default"
        for combination in found
    ]


def _choices(
    model: nn.Module, extra: Mapping[str, Sequence[str]]
) -> tuple[dict[str, dict[str, nn.Module]], dict[str, Sequence[str]]]:
    """Layers and what they may take, by name or pattern."""
    own = {name: layer for name, layer in model.named_modules() if name and isinstance(layer, SurrogateLayer)}
    layers, of = dict[str, dict[str, nn.Module]](), dict[str, str]()
    for pattern in extra:
        layers[pattern] = matching(model, pattern)
        for name in layers[pattern]:
            own.pop(name, None)
            if of.setdefault(name, pattern) != pattern:
                raise UserError(f"the patterns {of[name]!r} and {pattern!r} both name {name}; each layer may have one")
    own_layers: dict[str, dict[str, nn.Module]] = {name: {name: layer} for name, layer in own.items()}
    return own_layers | layers, {**{name: layer.offered for name, layer in own.items()}, **extra}


def _check(layers: Mapping[str, Mapping[str, nn.Module]], ways: Mapping[str, Sequence[str]]) -> None:
    """Refuses patterns without choices, choices that a layer does not have, and too many of them."""
    for key, names in ways.items():
        if isinstance(names, str) or not names:
            raise UserError(f"expected a list of one backward pass or more for {key!r}, got {names!r}")
        for name, layer in layers[key].items():
            for way in names:
                surrogate(name, layer, way)
    count = math.prod(len(names) for names in ways.values())
    if count > _MOST:
        raise UserError(
            f"expected at most {_MOST} combinations of backward passes, got {count}, of {len(ways)} layers; let layers "
            "take the same choice through a pattern that names them all, such as '*.quantizer'"
        )


def _short(key: str, keys: Sequence[str]) -> str:
    """The shortest end of a name that no other name has and that says more than a number."""
    parts = key.split(".")
    for start in reversed(range(len(parts))):
        end = ".".join(parts[start:])
        if not parts[start].isdigit() and sum(f".{other}".endswith(f".{end}") for other in keys) == 1:
            return end
    return key
