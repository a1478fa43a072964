"""Radii and step sizes as people write them: `8/255`, `0.5/255`, `0.3`, `eps/10`, `2*eps`."""

from __future__ import annotations

import math
import re
from fractions import Fraction

from lit_robust.errors import UserError

_LARGEST_DENOMINATOR = 100_000  # a float such as 0.031372549 is read as 8/255, and 0.0314 as itself
_NUMBER = r"[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?"
_RATIO = re.compile(rf"^\s*(?P<top>-?{_NUMBER})\s*(?:/\s*(?P<bottom>{_NUMBER}))?\s*$")
_OF_EPS = re.compile(rf"^\s*(?:(?P<times>-?{_NUMBER})\s*\*\s*)?eps\s*(?:/\s*(?P<over>{_NUMBER}))?\s*$")


def parse(value: Fraction | float | str, *, name: str = "eps") -> Fraction:
    """Exact value of a radius.

    Args:
        value: A Fraction; a float, which is taken as the nearest fraction of small denominator; or text such as
            `8/255`, `0.5/255`, `0.3`.
        name: What the number is called in the error message.

    Raises:
        UserError: If the text is not a number or a ratio, or the number is not finite.
    """
    if isinstance(value, str):
        match = _RATIO.match(value)
        if match is None or (match["bottom"] and float(match["bottom"]) == 0):
            raise UserError(f"expected {name} to be a number or a ratio such as '8/255', got {value!r}")
        return Fraction(match["top"]) / Fraction(match["bottom"] or 1)
    if isinstance(value, Fraction):
        return value
    if not math.isfinite(value):
        raise UserError(f"expected {name} to be finite, got {value}")
    exact = Fraction(value)
    nearest = exact.limit_denominator(_LARGEST_DENOMINATOR)
    # A float below about 1e-4 has no close fraction of small denominator; it keeps its decimal spelling.
    return nearest if abs(nearest - exact) <= abs(exact) / 1_000_000 else Fraction(str(value))


def parse_step(value: Fraction | float | str, eps: Fraction, *, name: str = "step_size") -> Fraction:
    """Exact value of a step size, which may be given in units of the radius: `eps`, `eps/10`, `2.5*eps/40`.

    Raises:
        UserError: If it is not a number, or not above 0.
    """
    match = _OF_EPS.match(value) if isinstance(value, str) else None
    if match and not (match["over"] and float(match["over"]) == 0):
        step = Fraction(match["times"] or 1) * eps / Fraction(match["over"] or 1)
    else:
        step = parse(value, name=name)
    if step < 0 or (step == 0 and eps != 0):
        raise UserError(f"expected {name} to be above 0, got {value!r}")
    return step


def show(value: Fraction) -> str:
    """The shortest usual spelling: over 255 where that is exact to a tenth of a grey level, else decimal."""
    grey_levels = value * 255
    short_decimal = (value * 1000).denominator == 1
    if not short_decimal and grey_levels.denominator in (1, 2, 5, 10):
        return f"{float(grey_levels):g}/255"
    return f"{float(value):g}"
