"""How far apart the filters of two networks are: a distance of two samples, with its uncertainty."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lit_robust import sampling

_LEVEL = 0.05  # of the test that decides whether the interval reaches 0


class Distance(NamedTuple):
    """A distance of two samples; NaN where either has fewer than two values, or neither spreads and they differ.

    Attributes:
        value: Wasserstein-1 distance in units of the pooled standard deviation.
        low: Lower end of its 95 % interval, 0 where chance explains it.
        high: Upper end.
        p: How often samples that are mixed at random are as far apart, in (0, 1].
    """

    value: float
    low: float
    high: float
    p: float


def weight_distance(first: Tensor, second: Tensor, *, resamples: int = 1000, seed: int = 0) -> Distance:
    """Wasserstein-1 distance of two samples of filters' numbers over their pooled standard deviation.

    Two finite samples are always apart, and resampled ones more so: a bootstrap interval alone never reaches 0. So `p`
    is that of a permutation test, and the interval, of the bootstrap's percentiles, reaches down to 0 where `p` is
    0.05 or more. In trials with 16 to 256 normal numbers a sample it held the true distance in 89 to 100 %.

    Args:
        first: A number a filter, (N,).
        second: The same of another network, (M,).
        resamples: Resamples of each kind.
        seed: Seed of the resamples.
    """
    a, b = first.double().flatten(), second.double().flatten()
    n, m = len(a), len(b)
    if min(n, m) < 2:
        return Distance(*[float("nan")] * 4)
    apart, spread = (float(part) for part in (wasserstein(a[None], b[None])[0], _spread(a[None], b[None])[0]))
    if spread == 0:
        return Distance(0.0, 0.0, 0.0, 1.0) if apart == 0 else Distance(*[float("nan")] * 4)
    noise = sampling.Noise(sampling.keys(torch.zeros(1, dtype=torch.int64), seed=seed))
    mixed = torch.cat([a, b])[noise.uniform("mixed", (resamples, n + m))[0].argsort(1)]
    chance = wasserstein(mixed[:, :n], mixed[:, n:])
    p = (1 + int((chance >= apart * (1 - 1e-9)).sum())) / (1 + resamples)
    again = [x[(noise.uniform(name, (resamples, len(x)))[0] * len(x)).long()] for name, x in (("a", a), ("b", b))]
    distances = wasserstein(*again) / _spread(*again)
    known = distances[distances.isfinite()]  # few filters may be drawn all alike
    low, high = known.quantile(a.new_tensor([0.025, 0.975])).tolist() if len(known) else [float("nan")] * 2
    return Distance(apart / spread, low if p < _LEVEL else 0.0, high, p)


def _spread(a: Tensor, b: Tensor) -> Tensor:
    """Pooled standard deviation of each row."""
    n, m = a.shape[1], b.shape[1]
    return ((a.var(1) * (n - 1) + b.var(1) * (m - 1)) / (n + m - 2)).sqrt()


def wasserstein(a: Tensor, b: Tensor) -> Tensor:
    """Wasserstein-1 distance of samples, (R, N) and (R, M), in each row: the mean gap of their quantile functions."""
    n, m = a.shape[1], b.shape[1]
    steps = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]).sort().values  # in units of 1 / (n m)
    widths = torch.diff(steps, prepend=steps.new_zeros(1)).to(a) / (n * m)
    at_a, at_b = (steps - 1) // m, (steps - 1) // n
    return (a.sort(1).values[:, at_a] - b.sort(1).values[:, at_b]).abs() @ widths
