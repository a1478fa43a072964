"""What the distances of the nearest adversarials say: their mean and median, and robust accuracy at every radius."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np

Column = np.ndarray[Any, np.dtype[Any]]
OVER = "images classified correctly for which an adversarial was found"
_POINTS = 40  # of the curve, beside radius 0


def minimum_norms(distance: Column, found: Column, right: Column) -> dict[str, Any]:
    """Figures of minimal norms as plain JSON.

    Args:
        distance: Distance of each sample's nearest adversarial, (N,).
        found: Whether there is one, (N,) bool.
        right: Whether the clean image is classified correctly, (N,) bool.

    Returns:
        `mean` and its `interval_95` (Student's) over the `found` of `n` correctly classified images for which an
        adversarial was found, as in Pintor et al. (2021) and foolbox; `median` over all `n`, those without an
        adversarial being infinitely far; `mean_with_misclassified`, which counts images that are wrong already with 0;
        and `curve`, robust accuracy over all images at each `radius`. None where there is nothing to tell. All norms
        and accuracies are upper bounds.
    """
    norms = np.sort(distance[found & right].astype(float))
    n, wrong = int(right.sum()), int((~right).sum())
    everything = np.concatenate([np.zeros(wrong), norms])
    return {
        "bound": "at most",
        "over": OVER,
        "mean": _mean(norms),
        "interval_95": _student(norms),
        "median": _median(norms, n),
        "found": len(norms),
        "n": n,
        "mean_with_misclassified": _mean(everything),
        "found_with_misclassified": len(everything),
        "curve": _curve(norms, n, len(right)),
    }


def _mean(norms: Column) -> float | None:
    return float(norms.mean()) if len(norms) else None


def _student(norms: Column, confidence: float = 0.95) -> list[float] | None:
    """Student's interval of the mean, from 0 on; None below two samples."""
    from scipy.stats import t  # slow to import

    if len(norms) < 2:
        return None
    half = float(t.ppf((1 + confidence) / 2, len(norms) - 1)) * float(norms.std(ddof=1)) / sqrt(len(norms))
    mean = float(norms.mean())
    return [max(0.0, mean - half), mean + half]


def _median(norms: Column, n: int) -> float | None:
    """Median of `n` samples of which all but the sorted `norms` are infinitely far; None where it is infinite."""
    last = n // 2  # the upper of the two middle ones
    if n == 0 or last >= len(norms):
        return None
    return float(norms[last] if n % 2 else (norms[last - 1] + norms[last]) / 2)


def _curve(norms: Column, right: int, samples: int) -> dict[str, list[float]]:
    """Robust accuracy at radius 0 and at norms of evenly spaced ranks among the sorted ones."""
    ranks = np.linspace(0, len(norms) - 1, min(_POINTS, len(norms))).round().astype(int)
    radii = np.unique(norms[ranks])
    broken = np.searchsorted(norms, radii, side="right")
    return {
        "radius": [0.0, *radii.tolist()],
        "accuracy": [(right - int(k)) / samples if samples else 0.0 for k in (0, *broken)],
    }
