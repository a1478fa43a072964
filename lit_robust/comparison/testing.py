"""The tests that a comparison pairs: finished ones are found, others are run, and their results are read."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lit_robust import __version__, runs
from lit_robust.callbacks.robust_report import RESULTS
from lit_robust.comparison.plan import PlannedTest
from lit_robust.errors import UserError
from lit_robust.evaluation.store import PER_SAMPLE, SCHEMA
from lit_robust.lightning_cli import _FOLDER
from lit_robust.loggers import METRICS

_TESTS = "tests"


@dataclass(frozen=True, kw_only=True)
class FinishedTest:
    """A run's test and what it wrote.

    Attributes:
        label: What the run is called.
        folder: Folder of the test.
        results: Content of `results.json`.
        samples: Columns of `per_sample.parquet`, (rows,) each.
        measurements: Contents of the measurements' JSON files by their names.
    """

    label: str
    folder: Path
    results: Mapping[str, Any]
    samples: Mapping[str, np.ndarray[Any, np.dtype[Any]]]
    measurements: Mapping[str, Mapping[str, Any]]


def load(label: str, folder: Path) -> FinishedTest:
    """Reads a finished test.

    Args:
        label: What the run is called.
        folder: Folder of the test.
    """
    import pyarrow.parquet as pq

    table = pq.read_table(folder / PER_SAMPLE)
    contents = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    return FinishedTest(
        label=label,
        folder=folder,
        results=json.loads((folder / RESULTS).read_text()),
        samples={name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names},
        measurements={name: c for name, c in contents.items() if isinstance(c, dict) and "measurement" in c},
    )


def find(run: Path, planned: PlannedTest) -> Path | None:
    """The newest finished test of a run that a new one would repeat, or None.

    Its config has to be the same, the checkpoint that of the run and older than the test, and the version this one.

    Args:
        run: Run folder.
        planned: The new test.
    """
    same = [f for f in (run / _TESTS).glob("*") if _is_finished(f, planned) and _repeats(f, planned)]
    return max(same, key=lambda folder: (folder / RESULTS).stat().st_mtime, default=None)


def _is_finished(folder: Path, planned: PlannedTest) -> bool:
    files = (runs.CONFIG, RESULTS, PER_SAMPLE, *(f"{name}.json" for name in planned.measurements))
    return all((folder / name).is_file() for name in files)


def _repeats(folder: Path, planned: PlannedTest) -> bool:
    results, started = json.loads((folder / RESULTS).read_text()), (folder / runs.CONFIG).stat().st_mtime
    weights = Path(results.get("checkpoint") or "")
    return (
        runs.load_config(folder) == planned.config
        and results.get("lit_robust") == __version__
        and results.get("schema") == SCHEMA
        and weights.name == planned.checkpoint.name
        and weights.parent.parent == Path(results.get("run") or "nowhere")  # not weights from elsewhere
        and planned.checkpoint.stat().st_mtime < started
    )


def run_test(label: str, run: Path, title: str, arguments: Sequence[str]) -> Path:
    """Runs a test in a process of its own and returns its folder.

    A process of its own takes its memory with it, and may start others, as several devices do, with its own command.

    Args:
        label: What the run is called.
        run: Run folder.
        title: What the evaluation is called.
        arguments: What follows `test`.

    Raises:
        UserError: If the test failed; it has said why.
    """
    folder = runs.claim(run / _TESTS, f"{title}-")
    try:
        command = [sys.executable, "-m", "lit_robust", "test", *arguments]
        with _ending_together():
            done = subprocess.run(command, env={**os.environ, _FOLDER: str(folder)}, check=False)
    finally:
        if not any((folder / name).exists() for name in (RESULTS, METRICS)):
            shutil.rmtree(folder)
    if done.returncode != 0:
        raise UserError(
            f"the test of {label} failed with exit code {done.returncode}, as it says above; nothing was compared. "
            "Tests that finished are in their runs' folders, where --reuse finds them"
        )
    return folder


@contextmanager
def _ending_together() -> Iterator[None]:
    """Turns a request to terminate into an exception meanwhile, upon which `subprocess.run` ends its process."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
