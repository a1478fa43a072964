"""A finished test on disk: its figures, its settings and its rows of samples."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import isclose
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lit_robust import runs
from lit_robust.callbacks.robust_report import RESULTS
from lit_robust.errors import UserError
from lit_robust.evaluation.minimum_norms import Column
from lit_robust.evaluation.store import PER_SAMPLE, SCHEMA
from lit_robust.evaluation.verdict import CLEAN
from lit_robust.unfinished import STATE

if TYPE_CHECKING:
    import pyarrow as pa

COMBINED = "combined"  # key of a combination's protocol


@dataclass(frozen=True, kw_only=True)
class Part:
    """A finished test, or what it says of some of its images.

    Attributes:
        folder: Folder of the test.
        results: Content of `results.json`.
        config: Its settings.
        table: Content of `per_sample.parquet`.
    """

    folder: Path
    results: Mapping[str, Any]
    config: Mapping[str, Any]
    table: pa.Table

    @property
    def tested(self) -> int:
        """How many images the test was of."""
        n: int = self.results[CLEAN]["n"]
        return n

    @property
    def attacks(self) -> Mapping[str, Mapping[str, Any]]:
        """The figures of each attack."""
        figures: Mapping[str, Mapping[str, Any]] = self.results["attacks"]
        return figures

    @cached_property
    def index(self) -> Column:
        """Positions of the images in the data set, (N,), in ascending order."""
        return self.samples(CLEAN)["index"]

    def samples(self, attack: str) -> dict[str, Column]:
        """The columns of an attack's rows, (N,) each, in the order of the images."""
        mine = np.flatnonzero(self._columns["attack"] == attack)
        mine = mine[np.argsort(self._columns["index"][mine], kind="stable")]
        return {name: column[mine] for name, column in self._columns.items()}

    @cached_property
    def _columns(self) -> dict[str, Column]:
        return {name: self.table[name].to_numpy(zero_copy_only=False) for name in self.table.column_names}

    def only(self, index: Column) -> Part:
        """The same test with the rows of some images alone; `results` stay those of all.

        Args:
            index: Positions of the images in the data set.
        """
        return replace(self, table=self.table.filter(np.isin(self._columns["index"], index)))


def load(folder: Path) -> Part:
    """Reads a finished test.

    Args:
        folder: Folder of the test.

    Raises:
        UserError: If it is not finished, is a combination, was written by another version, or its files contradict each
            other.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    _check_finished(folder)
    try:
        results = json.loads((folder / RESULTS).read_text())
        table = pq.read_table(folder / PER_SAMPLE)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(f"the results in {folder} cannot be read ({error}); run this test again") from error
    if isinstance(results, dict) and COMBINED in (results.get("protocol") or {}):
        raise UserError(
            f"{folder} is a combination; name its tests with the others instead: "
            f"combine {' '.join(results['protocol'][COMBINED])} ..."
        )
    schema = results.get("schema") if isinstance(results, dict) else None
    if schema != SCHEMA:
        raise UserError(
            f"{folder} was written by another version (schema {schema}, here {SCHEMA}); run this test again"
        )
    part = Part(folder=folder, results=results, config=runs.load_config(folder), table=table)
    _check_whole(part)
    return part


def _check_finished(folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"no test folder {folder}")
    if (folder / RESULTS).is_file():
        return
    if (folder / STATE).is_file():
        raise UserError(
            f"{folder} is not finished; unless a process works in it, go on with it: "
            f"python -m lit_robust test --resume {folder}"
        )
    tests = sorted(str(path.parent) for path in folder.glob(f"tests/*/{RESULTS}"))
    hint = f"; a run's tests are given one by one: {' '.join(tests)}" if tests else ""
    raise UserError(f"expected the folder of a finished test with a {RESULTS}, got {folder}{hint}")


def _check_whole(part: Part) -> None:
    """Refuses a test whose rows are not those that its figures were made of."""
    for name, figure in {CLEAN: part.results[CLEAN], **part.attacks}.items():
        samples = part.samples(name)
        alike = np.array_equal(samples["index"], np.unique(part.index))
        correct = float(samples["right"].sum())
        if not alike or not isclose(figure.get("correct", correct), correct, abs_tol=1e-5):
            raise UserError(
                f"{part.folder}: {PER_SAMPLE} and {RESULTS} contradict each other on {name!r}; run this test again"
            )
