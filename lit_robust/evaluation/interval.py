"""The uncertainty of a measured accuracy."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist


def wilson(successes: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson, 1927); (0, 1) where nothing was measured.

    Args:
        successes: Number of successes. For a random network, where each sample adds the share of its draws that are
            right, it need not be whole; the interval is then too wide rather than too narrow, since such shares vary
            less than successes do.
        n: Number of trials.
        confidence: Confidence, in (0, 1).
    """
    if n == 0:
        return 0.0, 1.0
    z, p = NormalDist().inv_cdf((1 + confidence) / 2), successes / n
    centre, half = p + z * z / (2 * n), z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = ((centre + sign * half) / (1 + z * z / n) for sign in (-1, 1))
    return (0.0 if successes == 0 else low), (1.0 if successes == n else high)
