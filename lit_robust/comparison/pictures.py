"""The joint pictures of a comparison: each measurement draws all runs together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from pydoc import locate

from lit_robust.callbacks import Measurement
from lit_robust.comparison.testing import FinishedTest
from lit_robust.errors import UserError


def draw(folder: Path, tests: Sequence[FinishedTest]) -> list[Path]:
    """Draws `<name>.png` of each measurement that all tests have.

    Args:
        folder: Folder of the pictures.
        tests: The tests.

    Returns:
        The pictures.

    Raises:
        UserError: If a measurement's class is not found, or is no `Measurement`.
    """
    pictures = []
    for name, content in tests[0].measurements.items():
        if all(name in test.measurements for test in tests):
            kind = locate(str(content["measurement"]))
            if not (isinstance(kind, type) and issubclass(kind, Measurement)):
                raise UserError(
                    f"{tests[0].folder / name}.json names the measurement {content['measurement']!r}, which is not "
                    "found or is no Measurement; `python -m lit_robust` looks classes up from the current folder"
                )
            figure = kind.draw({test.label: test.measurements[name] for test in tests})
            pictures.append(folder / f"{name}.png")
            figure.savefig(pictures[-1], dpi=120)
    return pictures
