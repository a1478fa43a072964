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
from collections.abc import Sequence
from pathlib import Path

from lit_robust.sweep.file import Cell, Sweep
from lit_robust.sweep.record import FIT, LOG, Record, read, trained

COMMAND = (sys.executable, "-m", "lit_robust")
_PATIENCE = 20.0  # seconds that a child has to end by itself
_LAST_LINES = 5


def run_cell(sweep: Sweep, cell: Cell, folder: Path, lock: int) -> Record:
    """Does what is left to do of a claimed cell: goes on with its training if there is a checkpoint, and tests.

    Args:
        sweep: The sweep.
        cell: The cell.
        folder: The cell's folder.
        lock: Descriptor of the claim, which the children inherit.

    Returns:
        The record, finished or failed.

    Raises:
        KeyboardInterrupt: If this process was told to stop; the child has ended, and the cell is interrupted.
    """
    before = read(folder)
    record = Record(settings=sweep.settings(cell))
    if before is not None:
        record.run, record.tests, record.seconds = before.run, before.tests, before.seconds
    try:
        done = record.run is not None or _fit(cell, folder, record, lock)
        for title in cell.tests:
            done = done and (title in record.tests or _test(sweep, cell, title, folder, record, lock))
    except KeyboardInterrupt:
        record.state = "interrupted"
        record.write(folder)
        raise
    record.state = "finished" if done else "failed"
    record.write(folder)
    return record


def _fit(cell: Cell, folder: Path, record: Record, lock: int) -> bool:
    run = trained(folder)
    quiet = "--trainer.enable_progress_bar=false"  # the first option: the sweep's own go over it
    if run is None:
        options = [quiet, *cell.fit_options, f"--name={cell.name}", f"--runs={folder.parent}"]
    else:
        options = [f"--resume={run}"]
    if not _step(FIT, [FIT, *options], folder, record, lock):
        return False
    run = trained(folder)
    if run is None:
        record.reason = [f"`fit` ended without a checkpoint in {folder}"]
        return False
    record.run = run.name
    return True


def _test(sweep: Sweep, cell: Cell, title: str, folder: Path, record: Record, lock: int) -> bool:
    run = folder / str(record.run)
    before = _numbers(run, title)
    if not _step(title, ["test", f"--run={run}", *cell.test_options(title)], folder, record, lock):
        return False
    new = _numbers(run, title) - before
    if not new:
        record.reason = [f"`test` left no folder {title}-<n> in {run / 'tests'}"]
        return False
    results = run / "tests" / f"{title}-{max(new)}"
    record.tests[title] = {
        "folder": str(results.relative_to(folder)),
        "settings": sweep.test_settings(cell, title),
    }
    return True


def _numbers(run: Path, title: str) -> set[int]:
    """Numbers of a run's tests of a title."""
    names = (p.name for p in (run / "tests").glob("*"))
    return {int(match[1]) for name in names if (match := re.fullmatch(rf"{re.escape(title)}-(\d+)", name))}


def _step(step: str, argv: Sequence[str], folder: Path, record: Record, lock: int) -> bool:
    """Runs a command of the package to its end and notes what came of it."""
    record.step, record.state = step, "running"
    record.write(folder)
    begin = time.monotonic()
    with (folder / LOG).open("ab") as log:
        log.write(f"$ {shlex.join(['python', *COMMAND[1:], *argv])}\n".encode())
        log.flush()
        code = _child([*COMMAND, *argv], log.fileno(), lock)
    record.seconds[step] = round(time.monotonic() - begin, 1)
    if code != 0:
        lines = (folder / LOG).read_text(errors="replace").splitlines()
        record.exit_code, record.reason = code, [line for line in lines if line.strip()][-_LAST_LINES:]
    return code == 0


def _child(argv: Sequence[str], output: int, lock: int) -> int:
    """Exit code of a child, which inherits the lock and ends if this process is told to stop."""
    child = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=(lock,),
        start_new_session=True,  # Ctrl-C comes to this process alone, which passes it on once
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
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
