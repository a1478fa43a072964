"""What the attacks of an audit did to its images, read from the columns of all blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lit_robust.evaluation.summary import strongest
from lit_robust.evaluation.verdict import CLEAN

Column = np.ndarray[Any, np.dtype[Any]]
RIGHT, BEFORE = "right ", "before "  # beginnings of the names of an attack's columns


class Rows:
    """The rows of an audit.

    Every attack ran on all images that are right without it, on its own. Each row has a number in [0, 1]: how right the
    image is under it, 1 or 0, and for a random network the share of fresh draws.

    Args:
        columns: Columns of all blocks, (N,) each: `right <row>` and `before <row>` for each attack and `clean`, and
            what checks have measured themselves.
    """

    def __init__(self, columns: Mapping[str, Any]) -> None:
        self.columns = columns

    @property
    def n(self) -> int:
        """Number of images."""
        return len(self.columns[RIGHT + CLEAN])

    def column(self, name: str) -> Column:
        """A column that a check has measured, (N,)."""
        return np.asarray(self.columns[name])

    def right(self, rows: Sequence[str]) -> Column:
        """How right each image is under the strongest of some attacks, (N,).

        On a random network the strongest is chosen by other draws than it is counted by.

        Args:
            rows: Names of the attacks, or `clean`.
        """
        before, right = ([np.asarray(self.columns[part + row]) for row in rows] for part in (BEFORE, RIGHT))
        return strongest(before, right)

    def accuracy(self, *rows: str) -> float:
        """Accuracy under the strongest of some attacks, or on clean images."""
        return float(self.right(rows).mean())

    def only(self, extra: Sequence[str], base: Sequence[str]) -> float:
        """The share of all images that some attacks break and others do not.

        On a random network it is the accuracy that they cost beyond the others, which may be below 0.

        Args:
            extra: Names of these attacks.
            base: Names of the others.
        """
        return float((self.right(base) - self.right([*base, *extra])).mean())
