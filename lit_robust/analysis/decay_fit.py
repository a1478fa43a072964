"""Whether a number falls exponentially or linearly with the number of layers: both fits, and how they compare."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

_GRID = 120  # rates that are tried before the best is refined
_FEWEST = {"decay": 4, "line": 3}  # different places that a fit needs: one more than it has parameters
_EXACT = 1e-12  # residuals of this size, relative to the values, are rounding


@dataclass(frozen=True, kw_only=True)
class CurveFit:
    """A curve through points by least squares.

    Attributes:
        parameters: a, b and c of a·exp(−b·k) + c, or slope and intercept of a line.
        r2: Share of the variance that the curve explains; NaN where all values are the same.
        aic: Akaike's information criterion for normal errors, n·ln(RSS / n) + 2·(parameters + 1) (Akaike, 1974); lower
            is better, and only differences between fits of the same points mean something.
    """

    parameters: Mapping[str, float]
    r2: float
    aic: float


def fit_line(k: Sequence[float], values: Sequence[float]) -> CurveFit:
    """Fits slope·k + intercept.

    Args:
        k: Places, (n,).
        values: What was measured there, (n,).

    Raises:
        ValueError: If the numbers are not finite, or there are fewer than three different places.
    """
    places, targets = _checked(k, values, "line")
    slope, intercept, rss = _projected(places, targets)
    return _fit({"slope": slope, "intercept": intercept}, rss, targets)


def fit_decay(k: Sequence[float], values: Sequence[float]) -> CurveFit:
    """Fits a·exp(−b·k) + c with b > 0; a and c have any sign, so that the curve may rise towards c too.

    For a given b the best a and c are a linear regression, which leaves a search over b alone (variable projection,
    Golub and Pereyra, 1973): on a grid of logarithmic steps, then between the neighbours of the best. It needs no
    starting values, and finds the best of several minima. The rates go from a curve that is a line to the eye (b·range
    of k = 0.01) to one that is over at the first step (b·smallest step = 10).

    Args:
        k: Places, (n,).
        values: What was measured there, (n,).

    Raises:
        ValueError: If the numbers are not finite, or there are fewer than four different places.
    """
    import numpy as np
    from scipy.optimize import minimize_scalar

    places, targets = _checked(k, values, "decay")
    different = np.unique(places)
    start = float(different[0])

    def rss(log_b: float) -> float:
        return _projected(np.exp(-math.exp(log_b) * (places - start)), targets)[2]

    grid = np.linspace(math.log(0.01 / np.ptp(different)), math.log(10 / np.diff(different).min()), _GRID)
    best = int(np.argmin([rss(log_b) for log_b in grid]))
    bounds = grid[max(0, best - 1)], grid[min(_GRID - 1, best + 1)]
    found = minimize_scalar(rss, bounds=bounds, method="bounded", options={"xatol": 1e-9})
    log_b = float(found.x) if found.fun < rss(grid[best]) else float(grid[best])
    b = math.exp(log_b)
    scaled, c, least = _projected(np.exp(-b * (places - start)), targets)
    return _fit({"a": scaled * math.exp(b * start), "b": b, "c": c}, least, targets)


def compare_fits(seeds: Sequence[Mapping[float, float]], *, draws: int = 1000, seed: int = 0) -> dict[str, Any] | None:
    """Both fits to the points of all seeds together, with 95 % bootstrap intervals over seeds, as plain JSON.

    The bootstrap draws whole seeds with replacement, since the points of one seed share its first stage (percentile
    intervals; Efron and Tibshirani, 1993). With few seeds they are too narrow: three have only ten different draws.

    Args:
        seeds: Value at each place, of each seed.
        draws: Bootstrap draws.
        seed: Seed of the draws.

    Returns:
        `decay` and `line` (parameters, `r2`, `aic`, and `interval_95` of each of them), and `aic_difference`, decay
        minus line, with its interval: below 0 the decay fits better. Intervals are None for a single seed. None if
        there are fewer than four different places.
    """
    import numpy as np

    known = [points for points in seeds if points]
    if len({place for points in known for place in points}) < _FEWEST["decay"]:
        return None
    whole = _both(known)
    fits: dict[tuple[int, ...], dict[str, float]] = {}
    samples: list[dict[str, float]] = []
    generator = np.random.default_rng(seed)
    for drawn in generator.integers(len(known), size=(draws if len(known) > 1 else 0, len(known))):
        multiset = tuple(sorted(drawn.tolist()))
        if multiset not in fits:
            fits[multiset] = _both([known[i] for i in multiset])
        samples.append(fits[multiset])

    def interval(name: str) -> list[float] | None:
        numbers = [sample[name] for sample in samples if math.isfinite(sample.get(name, math.nan))]
        return [float(bound) for bound in np.quantile(numbers, [0.025, 0.975])] if numbers else None

    def part(kind: str) -> dict[str, Any]:
        own = {name.partition(" ")[2]: name for name in whole if name.startswith(f"{kind} ")}
        numbers: dict[str, Any] = {key: _plain(whole[name]) for key, name in own.items()}
        return {**numbers, "interval_95": {key: interval(name) for key, name in own.items()}}

    difference = {"value": _plain(whole["aic_difference"]), "interval_95": interval("aic_difference")}
    points = sum(map(len, known))
    return {
        "seeds": len(known),
        "points": points,
        "decay": part("decay"),
        "line": part("line"),
        "aic_difference": difference,
    }


def _both(seeds: Sequence[Mapping[float, float]]) -> dict[str, float]:
    """The numbers of both fits, by kind and name; none where a bootstrap draw has too few places."""
    k = [place for points in seeds for place in points]
    values = [value for points in seeds for value in points.values()]
    if len(set(k)) < _FEWEST["decay"]:
        return {}
    decay, line = fit_decay(k, values), fit_line(k, values)
    numbers = {
        f"{kind} {name}": number
        for kind, fit in (("decay", decay), ("line", line))
        for name, number in {**fit.parameters, "r2": fit.r2, "aic": fit.aic}.items()
    }
    return {**numbers, "aic_difference": decay.aic - line.aic}


def _plain(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _checked(k: Sequence[float], values: Sequence[float], kind: str) -> tuple[np.ndarray[Any, Any], ...]:
    import numpy as np

    places, targets = np.asarray(k, dtype=float), np.asarray(values, dtype=float)
    if places.shape != targets.shape or places.ndim != 1:
        raise ValueError(f"expected as many places as values, got shapes {places.shape} and {targets.shape}")
    if not (np.isfinite(places).all() and np.isfinite(targets).all()):
        raise ValueError("places and values must be finite")
    if len(set(places.tolist())) < _FEWEST[kind]:
        raise ValueError(f"a {kind} needs at least {_FEWEST[kind]} different places, got {len(set(places.tolist()))}")
    return places, targets


def _projected(basis: np.ndarray[Any, Any], targets: np.ndarray[Any, Any]) -> tuple[float, float, float]:
    """Slope, intercept and residual sum of squares of a linear regression on one variable."""
    centred, about = basis - basis.mean(), targets - targets.mean()
    slope = float(centred @ about / (centred @ centred))
    residuals = about - slope * centred
    return slope, float(targets.mean() - slope * basis.mean()), float(residuals @ residuals)


def _fit(parameters: dict[str, float], rss: float, targets: np.ndarray[Any, Any]) -> CurveFit:
    import numpy as np

    n, total = len(targets), float(((targets - targets.mean()) ** 2).sum())
    least = n * (_EXACT * max(float(np.abs(targets).max()), _EXACT)) ** 2
    return CurveFit(
        parameters=parameters,
        r2=1 - rss / total if total > least else math.nan,
        aic=n * math.log(max(rss, least) / n) + 2 * (len(parameters) + 1),
    )
