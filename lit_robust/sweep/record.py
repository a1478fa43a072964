"""What a cell's folder says of it: `cell.json`, and the state that follows from it and the claim."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from lit_robust import runs
from lit_robust.errors import UserError
from lit_robust.sweep.cell import Cell, Sweep
from lit_robust.sweep.claim import claimed
from lit_robust.sweep.environment import slurm_task

RECORD = "cell.json"
LOG = "log.txt"
FIT = "fit"
State = Literal["waiting", "running", "finished", "failed", "interrupted", "lost"]


@dataclass
class Record:
    """What was done for a cell.

    Attributes:
        settings: What it was trained with; see `Sweep.settings`.
        state: What its process said last; a `running` that nobody claims is lost: its process was killed.
        step: What that process was at: `fit`, or the title of a test.
        exit_code: Of the step that failed.
        reason: Last lines of the log of the step that failed.
        run: Name of the run folder, once training is finished.
        tests: Finished tests by title: their `folder` below the cell's, and the `settings` of their config.
        seconds: Time of each step's last process.
        collapsed: Whether the trained network guesses; None if no test says so, see `guesses`.
        host: Machine of the process that worked on it last.
        pid: Its process id there.
        job: Its task of a SLURM job, if it was in one.
    """

    settings: dict[str, Any]
    state: State = "running"
    step: str = FIT
    exit_code: int | None = None
    reason: list[str] = field(default_factory=list)
    run: str | None = None
    tests: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    collapsed: bool | None = None
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    job: str | None = field(default_factory=lambda: slurm_task(os.environ))

    def write(self, folder: Path) -> None:
        """Writes the record of a cell's folder."""
        write_whole(folder / RECORD, json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")


def read(folder: Path) -> Record | None:
    """The record of a cell's folder; None if no process has begun it.

    Raises:
        UserError: If it was damaged.
    """
    path = folder / RECORD
    try:
        return Record(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); delete {folder} to run the cell again") from error


def write_whole(path: Path, text: str) -> None:
    """Writes a file in one step as seen by other processes, of which several may write it."""
    aside = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}")
    aside.write_text(text)
    os.replace(aside, path)


def trained(folder: Path) -> Path | None:
    """The newest run of a cell that has a checkpoint to go on from."""
    candidates = (p for p in folder.glob("*") if p.name.isdigit() and runs.checkpoint(p, "last") is not None)
    return max(candidates, key=lambda p: int(p.name), default=None)


def first_runs(cell: Cell, folder: Path) -> dict[str, Path] | None:
    """Run folders of the first stages that a cell starts from, by the name of their cell; None until all are trained.

    Args:
        cell: The cell.
        folder: The sweep's folder.
    """
    found: dict[str, Path] = {}
    for name in cell.needs:
        record = read(folder / name)
        if record is None or record.run is None:
            return None
        found[name] = folder / name / record.run
    return found


def state(sweep: Sweep, cell: Cell, folder: Path, *, ours: bool = False) -> State:
    """The state of a cell.

    A cell that failed before it had a checkpoint waits again once the file or the command line have other settings.

    Args:
        sweep: The sweep.
        cell: The cell.
        folder: The cell's folder.
        ours: Whether this process has claimed the cell.
    """
    record = read(folder)
    if record is not None and record.run is not None and set(cell.tests) <= set(record.tests):
        return "finished"
    if not ours and claimed(folder):
        return "running"
    if record is None or record.state == "finished":  # that one: tests were added to the file since
        return "waiting"
    if record.state == "failed" and not _begun(record, folder) and _differences(record, sweep, cell):
        return "waiting"
    return "lost" if record.state == "running" else record.state


def changes(sweep: Sweep, cell: Cell, folder: Path, *, ours: bool = False) -> list[str]:
    """Dotted keys at which a cell's stored settings differ from what the sweep says now, and must not.

    Where training got to no checkpoint nothing could be mixed, so that settings may change.

    Args:
        sweep: The sweep.
        cell: The cell.
        folder: The cell's folder.
        ours: Whether this process has claimed the cell.
    """
    record = read(folder)
    if record is None or (not _begun(record, folder) and (ours or not claimed(folder))):
        return []
    return _differences(record, sweep, cell)


def _begun(record: Record, folder: Path) -> bool:
    """Whether there is something to go on from, or was, if the checkpoints of a finished training were removed."""
    return record.run is not None or trained(folder) is not None


def _differences(record: Record, sweep: Sweep, cell: Cell) -> list[str]:
    stored, wanted = dict(record.settings), sweep.settings(cell)
    if "command_line" not in wanted:
        del stored["command_line"]
    found = runs.differences(stored, wanted)
    for title in cell.tests:
        if title in record.tests:
            now = sweep.test_settings(cell, title)
            found += runs.differences(record.tests[title]["settings"], now, f"test.{title}")
    return found
