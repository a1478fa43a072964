"""Figures and attacks in words: accuracies with intervals, and how an attack searched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lit_robust.report.page import Content, Markup, element, lines

_PLAIN = ("class", "threat", "attack")  # told elsewhere, or as a nested attack


def percent(figure: Mapping[str, Any], *, at_most: bool, beside: Content = None) -> Markup:
    """An accuracy with its interval and how many images it stands for.

    Args:
        figure: `accuracy`, `correct`, `n` and `interval_95`.
        at_most: Whether an attack found it, so that the truth may be lower.
        beside: What stands below, such as the audit's verdict.
    """
    low, high = figure["interval_95"]
    shown = f"{'at most ' if at_most else ''}{100 * figure['accuracy']:.1f} %"
    return lines(
        element("strong", shown),
        element("small", f"95 %: {100 * low:.1f} to {100 * high:.1f}"),
        element("small", f"{round(figure['correct'], 1):,} of {figure['n']:,}"),
        beside,
    )


def attack(description: object) -> str:
    """An attack as in `results.json` in words: classes from the outside in, each with its settings.

    Args:
        description: What `evaluation.protocol.describe` made of it.
    """
    if not isinstance(description, Mapping):
        return str(description)
    settings = ", ".join(
        f"{key} {_value(value)}"
        for key, value in description.items()
        if key not in _hidden(description) and value is not None and value is not False
    )
    own = f"{description.get('class', 'attack')}{f' ({settings})' if settings else ''}"
    return f"{own} of {attack(description['attack'])}" if "attack" in description else own


def _hidden(description: Mapping[str, Any]) -> tuple[str, ...]:
    """Settings that are told elsewhere, or do nothing in the attack's norm."""
    threat = description.get("threat")
    norm = threat.get("norm") if isinstance(threat, Mapping) else description.get("norm")
    return _PLAIN if norm == "l1" else (*_PLAIN, "l1_share")


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return attack(value) if "class" in value else ", ".join(f"{key} {_value(v)}" for key, v in value.items())
    if isinstance(value, list):
        return "[" + "; ".join(map(_value, value)) + "]"
    if value is True:
        return "yes"
    return f"{value:g}" if isinstance(value, float) else str(value).removeprefix("lit_robust.losses.")


def signed(value: float | None, *, share: bool) -> str:
    """A difference with its sign, of shares in percentage points."""
    if value is None:
        return "none"
    return f"{100 * value:+.1f}" if share else f"{value:+.3g}"


def p_value(p: float | None) -> str:
    """A p-value, or nothing."""
    return "" if p is None else "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
