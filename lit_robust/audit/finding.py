"""What a check found: a verdict, one figure, and what its picture shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from lit_robust.audit.thresholds import ROUNDING, Limits

Verdict = Literal["pass", "warn", "fail", "skipped"]
_ORDER: tuple[Verdict, ...] = ("skipped", "pass", "warn", "fail")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Points of one axis of the audit's figure.

    Attributes:
        x: Where the points are: numbers, or names of bars.
        series: Heights by the name of each curve; bars have one series, called by the empty name.
        x_label: Label of the horizontal axis.
        y_label: Label of the vertical one.
    """

    x: Sequence[float] | Sequence[str]
    series: Mapping[str, Sequence[float]]
    x_label: str
    y_label: str


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The outcome of one check.

    Attributes:
        check: Name of the check.
        verdict: `pass`, `warn`, `fail`, or `skipped` where the check has nothing to look at.
        figure: The figure in words.
        value: Its number, or None.
        why: Why it matters, and who says so.
        next: What to do about it.
        picture: What is drawn; None for nothing.
    """

    check: str
    verdict: Verdict
    figure: str
    value: float | None
    why: str
    next: str
    picture: Picture | None = field(default=None)

    def plain(self) -> dict[str, Any]:
        """The finding as plain JSON."""
        return asdict(self)


def judged(value: float, limits: Limits) -> Verdict:
    """The verdict on a value that should be small.

    Args:
        value: The value.
        limits: Above which it warns and fails; equal to a limit is not above it.
    """
    if not value <= limits.fail + ROUNDING:  # so that NaN fails
        return "fail"
    return "warn" if value > limits.warn + ROUNDING else "pass"


def worst(verdicts: Sequence[str]) -> Verdict:
    """The worst of several verdicts; a check that was skipped counts for nothing, and none at all is `skipped`."""
    return max((verdict for verdict in _ORDER if verdict in verdicts), key=_ORDER.index, default="skipped")
