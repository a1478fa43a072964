"""The work of one cell: `fit`, and `test` for each evaluation, each in a process of its own that writes to the log."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lit_robust.sweep.cell import Cell, Sweep
from lit_robust.sweep.device import Device
from lit_robust.sweep.environment import of_child
from lit_robust.sweep.guessing import guesses
from lit_robust.sweep.record import FIT, LOG, Record, first_runs, read, trained

COMMAND = (sys.executable, "-m", "lit_robust")
_PATIENCE = 20.0  # seconds that a child has to end by itself
_LAST_LINES = 5


def run_cell(sweep: Sweep, cell: Cell, folder: Path, lock: int, device: Device) -> Record:
    """Does what is left to do of a claimed cell: goes on with its training if there is a checkpoint, and tests.

    Args:
        sweep: The sweep.
        cell: The cell, whose first stages are trained.
        folder: The cell's folder.
        lock: Descriptor of the claim, which the children inherit.
        device: The device that they run on.

    Returns:
        The record, finished or failed.

    Raises:
        KeyboardInterrupt: If this process was told to stop; the child has ended, and the cell is interrupted.
    """
    before = read(folder)
    record = Record(settings=sweep.settings(cell))
    if before is not None:
        record.run, record.tests, record.seconds = before.run, before.tests, before.seconds
    work = _Work(sweep, cell, folder, record, lock, device)
    try:
        done = record.run is not None or work.fit()
        for title in cell.tests:
            done = done and (title in record.tests or work.test(title))
    except KeyboardInterrupt:
        record.state = "interrupted"
        record.write(folder)
        raise
    record.state = "finished" if done else "failed"
    if done:
        record.collapsed = guesses(folder / record.tests[title]["folder"] for title in cell.tests)
    record.write(folder)
    return record


@dataclass(frozen=True)
class _Work:
    """A claimed cell, and what its steps need."""

    sweep: Sweep
    cell: Cell
    folder: Path
    record: Record
    lock: int
    device: Device

    def fit(self) -> bool:
        """Trains, or goes on training."""
        run = trained(self.folder)
        quiet = "--trainer.enable_progress_bar=false"  # the first option: the sweep's own go over it
        if run is None:
            cell = self.cell.starting_from(first_runs(self.cell, self.folder.parent) or {})
            options = [quiet, *cell.fit_options, f"--name={cell.name}", f"--runs={self.folder.parent}"]
        else:
            options = [f"--resume={run}"]
        if not self._step(FIT, [FIT, *options]):
            return False
        run = trained(self.folder)
        if run is None:
            self.record.reason = [f"`fit` ended without a checkpoint in {self.folder}"]
            return False
        self.record.run = run.name
        return True

    def test(self, title: str) -> bool:
        """Runs one of the cell's tests and notes where its results are."""
        run = self.folder / str(self.record.run)
        before = _numbers(run, title)
        if not self._step(title, ["test", f"--run={run}", *self.cell.test_options(title)]):
            return False
        new = _numbers(run, title) - before
        if not new:
            self.record.reason = [f"`test` left no folder {title}-<n> in {run / 'tests'}"]
            return False
        results = run / "tests" / f"{title}-{max(new)}"
        self.record.tests[title] = {
            "folder": str(results.relative_to(self.folder)),
            "settings": self.sweep.test_settings(self.cell, title),
        }
        return True

    def _step(self, step: str, argv: Sequence[str]) -> bool:
        """Runs a command of the package to its end and notes what came of it."""
        record = self.record
        record.step, record.state = step, "running"
        record.write(self.folder)
        locks = [lock for lock in (self.lock, self.device.lock) if lock is not None]
        environment = of_child(os.environ, self.sweep, self.cell, self.device.name)
        begin = time.monotonic()
        with (self.folder / LOG).open("ab") as log:
            log.write(f"$ {shlex.join(['python', *COMMAND[1:], *argv])}\n".encode())
            log.flush()
            code = _child([*COMMAND, *argv], log.fileno(), locks, environment)
        record.seconds[step] = round(time.monotonic() - begin, 1)
        if code != 0:
            lines = (self.folder / LOG).read_text(errors="replace").splitlines()
            record.exit_code, record.reason = code, [line for line in lines if line.strip()][-_LAST_LINES:]
        return code == 0


def _numbers(run: Path, title: str) -> set[int]:
    """Numbers of a run's tests of a title."""
    names = (p.name for p in (run / "tests").glob("*"))
    return {int(match[1]) for name in names if (match := re.fullmatch(rf"{re.escape(title)}-(\d+)", name))}


def _child(argv: Sequence[str], output: int, locks: Sequence[int], environment: Mapping[str, str]) -> int:
    """Exit code of a child, which inherits the locks and ends if this process is told to stop."""
    child = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=tuple(locks),
        start_new_session=True,  # Ctrl-C comes to this process alone, which passes it on once
        env=dict(environment),
    )
    try:
        return child.wait()
    except BaseException:
        _stop(child)
        raise


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Ends a child and the processes that it started: as Ctrl-C does, and if that does not help, at once."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
            child.wait(_PATIENCE)
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
