"""Fixed stratified splits of a data set."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_robust import sampling


def stratified(y: Tensor, count: int, *, seed: int = 0) -> Tensor:
    """A random part of a data set in which every class has its share, to within one sample.

    The same for ever: it is a pure function of the labels, of `count` and of `seed`.

    Args:
        y: Labels (N,), int64.
        count: Samples in the part, at most N.
        seed: Seed of the choice within a class.

    Returns:
        Mask (N,), bool, with exactly `count` samples set.
    """
    noise = sampling.Noise(sampling.keys(torch.arange(len(y)), seed=seed)).uniform("split", (), dtype=torch.float64)
    shuffled = noise.argsort(stable=True)
    by_class = shuffled[y[shuffled].argsort(stable=True)]
    # Every time the running share passes a whole number, a sample is taken.
    share = torch.arange(len(y) + 1) * count // max(len(y), 1)
    part = torch.zeros(len(y), dtype=torch.bool)
    part[by_class] = share.diff().bool()
    return part
