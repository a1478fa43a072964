"""How far apart the filters of the runs are, in files of their own."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from pydoc import locate

from lit_robust.callbacks.weight_statistics import WeightStatistics
from lit_robust.comparison.testing import FinishedTest

_COLUMNS = ("layer", "quantity", "run", "distance", "low", "high", "p")


def write(folder: Path, tests: Sequence[FinishedTest]) -> list[Path]:
    """Writes `<name>_distances.csv` of each measurement of weights that all tests have, if it tells runs apart.

    Args:
        folder: Folder of the comparison.
        tests: The tests, the first being what the others are compared with.

    Returns:
        The files.
    """
    found = []
    for name, content in tests[0].measurements.items():
        kind = locate(str(content["measurement"]))
        if not (isinstance(kind, type) and issubclass(kind, WeightStatistics)):
            continue
        if not all(name in test.measurements for test in tests):
            continue
        rows = kind.distances({test.label: test.measurements[name] for test in tests})
        if rows:
            found.append(folder / f"{name}_distances.csv")
            with found[-1].open("w", newline="") as file:
                writer = csv.DictWriter(file, _COLUMNS, extrasaction="ignore")
                writer.writeheader()
                for row in rows:
                    low, high = row["interval_95"] or (None, None)
                    writer.writerow({**row, "low": low, "high": high})
    return found
