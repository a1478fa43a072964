"""The joint pictures of a comparison: minimal norms, and what each measurement draws, with all runs together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from pydoc import locate
from typing import TYPE_CHECKING

from lit_robust.callbacks import Measurement
from lit_robust.callbacks.robust_report import NORMS_PICTURE
from lit_robust.comparison.testing import FinishedTest
from lit_robust.errors import UserError
from lit_robust.evaluation.norms_figure import norms_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(folder: Path, tests: Sequence[FinishedTest]) -> list[Path]:
    """Draws `minimum_norms.png` after a minimum-norm attack, and `<name>.png` of each measurement that all tests have.

    Args:
        folder: Folder of the pictures.
        tests: The tests.

    Returns:
        The pictures.

    Raises:
        UserError: If a measurement's class is not found, or is no `Measurement`.
    """
    figures: dict[str, Figure] = {}
    if any("minimum_norm" in figure for test in tests for figure in test.results["attacks"].values()):
        figures[NORMS_PICTURE] = norms_figure({test.label: test.results for test in tests})
    for name, content in tests[0].measurements.items():
        if all(name in test.measurements for test in tests):
            kind = locate(str(content["measurement"]))
            if not (isinstance(kind, type) and issubclass(kind, Measurement)):
                raise UserError(
                    f"{tests[0].folder / name}.json names the measurement {content['measurement']!r}, which is not "
                    "found or is no Measurement; `python -m lit_robust` looks classes up from the current folder"
                )
            figures[f"{name}.png"] = kind.draw({test.label: test.measurements[name] for test in tests})
    for name, figure in figures.items():
        figure.savefig(folder / name, dpi=120)
    return [folder / name for name in figures]
