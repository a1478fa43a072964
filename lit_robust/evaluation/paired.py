"""How two classifiers differ on the same images: counts of pairs, the difference with its interval, and a test."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np

Column = np.ndarray[Any, np.dtype[Any]]
_NEAR = 1e-12  # the bracket of a limit stops short of the estimate, where the score equation may have a second root


@dataclass(frozen=True, kw_only=True)
class PairedCounts:
    """How many images both, only one and none of two classifiers get right.

    Attributes:
        both: Images that both get right.
        only_first: Images that only the first gets right.
        only_second: Images that only the second gets right.
        neither: Images that none gets right.
    """

    both: int
    only_first: int
    only_second: int
    neither: int

    @property
    def n(self) -> int:
        """Number of images."""
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def difference(self) -> float:
        """Share that the second gets right minus that of the first, in [-1, 1]; 0 without images."""
        return (self.only_second - self.only_first) / self.n if self.n else 0.0


@dataclass(frozen=True, kw_only=True)
class MeanDifference:
    """The mean of paired differences.

    Attributes:
        difference: Mean of second minus first; None without pairs.
        interval: Confidence interval of the mean; None below two pairs.
        n: Number of pairs.
    """

    difference: float | None
    interval: tuple[float, float] | None
    n: int


def paired_counts(first: Column, second: Column) -> PairedCounts:
    """Counts pairs.

    Args:
        first: Which images the first classifier gets right, (N,) bool.
        second: Which the second gets right, in the same order, (N,) bool.

    Raises:
        ValueError: If the shapes differ.
    """
    if first.shape != second.shape:
        raise ValueError(f"expected as many verdicts of both, got {first.shape} and {second.shape}")
    return PairedCounts(
        both=int((first & second).sum()),
        only_first=int((first & ~second).sum()),
        only_second=int((~first & second).sum()),
        neither=int((~first & ~second).sum()),
    )


def tango(counts: PairedCounts, confidence: float = 0.95) -> tuple[float, float]:
    """The asymptotic score interval of a difference of paired proportions (Tango, 1998).

    It holds the differences that the score test does not reject; at 0 this is McNemar's test without continuity
    correction. Unlike Wald's interval it stays inside [-1, 1] and does not shrink to a point where the two classifiers
    agree on every image.

    Args:
        counts: Counts of pairs.
        confidence: Confidence, in (0, 1).

    Returns:
        Limits of the second's share minus the first's; (-1, 1) without images.
    """
    from scipy.stats import norm  # slow to import

    if counts.n == 0:
        return -1.0, 1.0
    z = float(norm.ppf((1 + confidence) / 2))
    low = _lower_limit(counts.only_first, counts.only_second, counts.n, z)
    high = -_lower_limit(counts.only_second, counts.only_first, counts.n, z)  # the same with the roles exchanged
    return low, high


def _lower_limit(first: int, second: int, n: int, z: float) -> float:
    """The smallest difference second - first that is not rejected, `first` and `second` being right alone."""
    from scipy.optimize import brentq

    estimate = (second - first) / n
    if first == n:
        return -1.0

    def excess(delta: float) -> float:
        return second - first - n * delta - z * sqrt(_variance(first, second, n, delta))

    return float(brentq(excess, -1.0, estimate - _NEAR, xtol=1e-13))


def _variance(first: int, second: int, n: int, delta: float) -> float:
    """Variance of the number of images that the second gains, if the difference is `delta` (Tango, 1998).

    `p` is the likeliest probability that only the first is right, where that of the second is p + delta: the larger
    root of 2 n p² + b p + c = 0.
    """
    b = (2 * n + first - second) * delta - first - second
    c = -first * delta * (1 - delta)
    p = (sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
    return max(n * (2 * p + delta * (1 - delta)), 0.0)


def mcnemar(counts: PairedCounts) -> float:
    """The exact two-sided p-value that both classifiers are right equally often (McNemar, 1947).

    Under the hypothesis, an image on which only one of them is right is equally likely to be either's; 1 where there is
    no such image.
    """
    from scipy.stats import binomtest

    discordant = counts.only_first + counts.only_second
    return float(binomtest(counts.only_first, discordant).pvalue) if discordant else 1.0


def mean_difference(first: Column, second: Column, confidence: float = 0.95) -> MeanDifference:
    """The mean of second minus first over the images on which both are finite, with Student's t interval.

    Args:
        first: A number of each image, (N,).
        second: The same of the other classifier, in the same order, (N,).
        confidence: Confidence, in (0, 1).

    Raises:
        ValueError: If the shapes differ.
    """
    from scipy.stats import t

    if first.shape != second.shape:
        raise ValueError(f"expected as many numbers of both, got {first.shape} and {second.shape}")
    known = np.isfinite(first) & np.isfinite(second)
    gain = second[known].astype(float) - first[known].astype(float)
    n = len(gain)
    if n == 0:
        return MeanDifference(difference=None, interval=None, n=0)
    mean = float(gain.mean())
    if n == 1:
        return MeanDifference(difference=mean, interval=None, n=1)
    half = float(t.ppf((1 + confidence) / 2, n - 1)) * float(gain.std(ddof=1)) / sqrt(n)
    return MeanDifference(difference=mean, interval=(mean - half, mean + half), n=n)
