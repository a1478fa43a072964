"""Whether a trained network has diverged to guessing, which is a result and no failure."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lit_robust.evaluation.interval import wilson
from lit_robust.evaluation.store import PER_SAMPLE
from lit_robust.evaluation.verdict import CLEAN


def guesses(folders: Iterable[Path]) -> bool | None:
    """Whether a network is no better on clean images than by chance, by the first test that says so.

    That is where the 95 % interval of its accuracy reaches down to the share of the most frequent class, which is what
    the best answer without a look at the image has: 1 / classes on balanced data.

    Args:
        folders: Folders of its tests.

    Returns:
        None if no test has results of each image.
    """
    from pyarrow import parquet

    path = next((folder / PER_SAMPLE for folder in folders if (folder / PER_SAMPLE).is_file()), None)
    if path is None:
        return None
    table = parquet.read_table(path, columns=["attack", "label", "right"], filters=[("attack", "==", CLEAN)])
    labels = table["label"].to_pylist()
    low, _ = wilson(sum(table["right"].to_pylist()), len(labels))
    return low <= max(map(labels.count, set(labels)), default=0) / max(1, len(labels))
