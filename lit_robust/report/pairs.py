"""Two tests image by image: what each has right, how they differ, and an exact test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lit_robust.errors import UserError
from lit_robust.evaluation.paired import Column, PairedCounts, mcnemar, mean_difference, paired_counts, tango
from lit_robust.evaluation.summary import strongest
from lit_robust.evaluation.verdict import CLEAN

Samples = Mapping[str, Mapping[str, Column]]  # columns of `per_sample.parquet` by attack, in the order of the images


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A figure of two tests and its difference.

    Attributes:
        first: That of the first; None where nothing was found.
        other: That of the other.
        difference: Other minus first, on the same images; None without pairs.
        interval: Its 95 % interval; None where it is not known.
        n: Number of pairs.
        counts: Counts of pairs, where each image is right or wrong.
        p: McNemar's exact p-value, likewise.
    """

    first: float | None
    other: float | None
    difference: float | None
    interval: tuple[float, float] | None
    n: int
    counts: PairedCounts | None = None
    p: float | None = None


def check(one: Samples, another: Samples) -> None:
    """Refuses tests of other images.

    Raises:
        UserError: If their images, or the labels of these, differ.
    """
    for column, what in (("index", "other images"), ("label", "images with other labels")):
        if not np.array_equal(one[CLEAN][column], another[CLEAN][column]):
            raise UserError(f"they are of {what} and cannot be paired")


def accuracies(one: Samples, another: Samples, names: Sequence[str]) -> Pair:
    """The accuracies under the strongest of some attacks for each image.

    A random network's images are right in part; their difference has Student's interval, and no counts.

    Args:
        one: The first test.
        another: The other test.
        names: The attacks, or `clean` alone.
    """
    first, other = (
        strongest([test[name]["right_before"] for name in names], [test[name]["right"] for name in names])
        for test in (one, another)
    )
    means = float(first.mean()), float(other.mean())
    if not np.isin(np.concatenate([first, other]), (0, 1)).all():
        gain = mean_difference(first, other)
        return Pair(first=means[0], other=means[1], difference=gain.difference, interval=gain.interval, n=gain.n)
    counts = paired_counts(first == 1, other == 1)
    return Pair(
        first=means[0],
        other=means[1],
        difference=counts.difference,
        interval=tango(counts),
        n=counts.n,
        counts=counts,
        p=mcnemar(counts),
    )


def norms(one: Samples, another: Samples, name: str) -> Pair:
    """The mean norms of a minimum-norm attack; their difference is over images with an adversarial in both.

    Args:
        one: The first test.
        another: The other test.
        name: The attack.
    """
    first, other = _norms(one[name]), _norms(another[name])
    gain = mean_difference(first, other)
    return Pair(first=_mean(first), other=_mean(other), difference=gain.difference, interval=gain.interval, n=gain.n)


def _norms(samples: Mapping[str, Column]) -> Column:
    """Norms, (N,); infinite where there is no adversarial or the clean image is wrong."""
    # An adversarial beyond the radius that counts is not broken, but the final image is wrong all the same.
    found = samples["broken"] | (samples["margin"] < 0)
    right = samples["prediction"] == samples["label"]
    nearest: Column = np.where(found & right, samples["distance"], np.inf)
    return nearest


def _mean(values: Column) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None
