"""How a number was measured, in words that a config can be written from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from fractions import Fraction
from typing import Any

from torch import nn

from lit_robust import radius


def describe(value: object) -> Any:  # noqa: ANN401 - JSON
    """An attack or threat model as plain JSON: class names, exact radii, functions by their path."""
    if isinstance(value, nn.Module):
        return f"{type(value).__module__}.{type(value).__qualname__}({value.extra_repr()})"
    if is_dataclass(value) and not isinstance(value, type):
        described = {field.name: describe(getattr(value, field.name)) for field in fields(value) if field.repr}
        return {"class": type(value).__name__, **described}
    if isinstance(value, Fraction):
        return radius.show(value)
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, str | int | float | bool | None):
        return value
    if isinstance(value, Sequence):
        return [describe(item) for item in value]
    if callable(value):
        return f"{value.__module__}.{getattr(value, '__qualname__', type(value).__name__)}"
    return str(value)
