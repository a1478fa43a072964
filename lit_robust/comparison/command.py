"""The command `compare`: plan all tests, run them, pair their samples, write and print."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from lit_robust import __version__, runs
from lit_robust.comparison import distances, pictures, report, request, testing
from lit_robust.comparison.plan import PlannedTest, check_alike, plan
from lit_robust.comparison.request import Request
from lit_robust.comparison.rows import rows
from lit_robust.comparison.testing import FinishedTest

_PACKAGES = ("torch", "lightning", "numpy", "scipy")
_METHOD = {
    "difference": "run minus the first run, on the same images",
    "accuracy": "score interval of paired proportions (Tango, 1998); p: exact McNemar test, of each row by itself",
    "mean norm": "Student's t interval of the mean difference, over images right and with an adversarial in both runs",
}


def compare(argv: Sequence[str]) -> None:
    """Tests several runs alike and pairs the results.

    Args:
        argv: What follows `compare`.

    Raises:
        UserError: For a mistake, which is found before the first test, or if a test fails.
    """
    if any(a in ("-h", "--help") for a in argv):
        print(request.HELP)
        return
    asked = request.read(argv)
    planned = [plan(asked.test(run)) for run in asked.runs]
    check_alike(asked.labels, planned)
    folder = runs.claim(asked.folder, f"{asked.title}-")
    try:
        tests = _test(asked, planned)
        content = _content(asked, planned, tests)
        (folder / runs.CONFIG).write_text(yaml.safe_dump(planned[0].shared, sort_keys=False, allow_unicode=True))
        report.write(folder, content)
    finally:
        if not any(folder.iterdir()):
            folder.rmdir()
    _print(content)
    for picture in pictures.draw(folder, tests):
        print(f"picture: {picture}")
    for table in distances.write(folder, tests):
        print(f"distances: {table}")
    print(f"comparison: {folder}")


def _test(asked: Request, planned: Sequence[PlannedTest]) -> list[FinishedTest]:
    """Finds or runs each test."""
    tests = []
    for number, (label, run, test) in enumerate(zip(asked.labels, asked.runs, planned, strict=True), start=1):
        found = testing.find(run, test) if asked.reuse else None
        print(f"{number} of {len(planned)}: {label}{f', tested before in {found}' if found else ''}", flush=True)
        tests.append(testing.load(label, found or testing.run_test(label, run, asked.title, asked.test(run))))
    return tests


def _content(asked: Request, planned: Sequence[PlannedTest], tests: Sequence[FinishedTest]) -> dict[str, Any]:
    """The comparison as plain JSON."""
    return {
        "schema": 1,
        "title": asked.title,
        "configs": [str(path) for path in asked.configs],
        "options": list(asked.options),
        "runs": [
            {
                "label": test.label,
                "run": str(run),
                "checkpoint": str(plan.checkpoint),
                "checkpoint_sha256": _sha256(plan.checkpoint),
                "selected": test.results.get("selected"),
                "test": str(test.folder),
                "protocol": test.results.get("protocol"),
            }
            for run, plan, test in zip(asked.runs, planned, tests, strict=True)
        ],
        "versions": {
            "python": platform.python_version(),
            "lit_robust": __version__,
            **{name: version(name) for name in _PACKAGES},
        },
        "method": _METHOD,
        "rows": rows(tests),
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _print(content: dict[str, Any]) -> None:
    from rich.console import Console

    width = max(120, 40 + 34 * len(content["runs"]))
    Console(width=width).print(report.comparison_table(content))
    first = content["runs"][0]["label"]
    print(f"Below a figure: its difference to {first} on the same images with its 95 % interval; for accuracies in")
    print("percentage points, and with the p-value of McNemar's exact test, which is of that row alone.")
