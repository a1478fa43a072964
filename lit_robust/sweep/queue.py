"""Which cell a process takes next, and when it has nothing more to do."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lit_robust.errors import UserError
from lit_robust.sweep import record
from lit_robust.sweep.cell import Cell, Sweep
from lit_robust.sweep.cell_run import run_cell
from lit_robust.sweep.claim import claim
from lit_robust.sweep.device import Device, taken
from lit_robust.sweep.environment import slurm_task
from lit_robust.sweep.file import load
from lit_robust.sweep.status import counted

_POLL = 5.0  # seconds between looks at the first stages of other processes
_STOPPED = ("interrupted", "lost")


@dataclass
class Queue:
    """What is left of a sweep, for one of the processes that work on it.

    Attributes:
        file: The sweep file, which must not change while it runs.
        settings: Settings of the command line.
        sweep: What the file says.
        folder: The sweep's folder.
        retry: Whether failed cells are tried again.
    """

    file: Path
    settings: Sequence[str]
    sweep: Sweep
    folder: Path
    retry: bool
    _tried: set[str] = field(default_factory=set)

    def run(self) -> None:
        """Runs what is left until a look at all cells finds nothing more to do, and nothing to wait for.

        Raises:
            UserError: For mistakes in the settings, before anything runs, and for cells that were run with others.
            KeyboardInterrupt: If this process was told to stop.
        """
        for cell in self.sweep.cells:
            self._refuse_changes(cell)
        states = {cell.name: self._state(cell) for cell in self.sweep.cells}
        waiting = [cell for cell in self.sweep.cells if states[cell.name] in self._to_do]
        if waiting:
            refuse_mistakes(self.sweep, waiting)
            print(f"{self.sweep.name}: {counted(states.values())}", flush=True)
        said: set[str] = set()
        with taken(os.environ) as device:
            while True:  # again, since another process may have died meanwhile
                begun = len(self._tried)
                awaited = self._look(device)
                if len(self._tried) > begun:
                    continue
                if not awaited:
                    return
                if awaited != said:
                    print(f"waiting for {', '.join(sorted(awaited))}, which another process is at", flush=True)
                said = awaited
                time.sleep(_POLL)

    @property
    def _to_do(self) -> set[str]:
        return {"waiting", *_STOPPED, *(["failed"] if self.retry else [])}

    def _state(self, cell: Cell, *, ours: bool = False) -> str:
        return record.state(self.sweep, cell, self.folder / cell.name, ours=ours)

    def _look(self, device: Device) -> set[str]:
        """Runs each cell that is to be done and that no other process is at.

        Returns:
            First stages that other cells wait for, and that another process may yet train.
        """
        awaited: set[str] = set()
        for cell in self._in_turn():
            home = self.folder / cell.name
            if cell.name in self._tried or self._state(cell) not in self._to_do:
                continue
            if record.first_runs(cell, self.folder) is None:
                awaited |= self._awaited(cell)
                continue
            with claim(home) as lock:
                # Another process may have been faster, and have ended since.
                if lock is not None and self._state(cell, ours=True) in self._to_do:
                    self._tried.add(cell.name)
                    if load(self.file, self.settings) != self.sweep:
                        raise UserError(f"{self.file} or a config of it changed while it ran; start the sweep again")
                    self._refuse_changes(cell, ours=True)
                    self._run_one(cell, lock, device)
        return awaited

    def _in_turn(self) -> list[Cell]:
        """The cells in the order of the file, but before them those that were begun; a requeued job's own first."""
        own = slurm_task(os.environ)

        def turn(cell: Cell) -> int:
            known = record.read(self.folder / cell.name)
            if known is None or self._state(cell) not in _STOPPED:
                return 2
            return int(own is None or known.job != own)

        return sorted(self.sweep.cells, key=turn)

    def _awaited(self, cell: Cell) -> set[str]:
        """The first stages that a cell waits for; none if one of them will not be trained by anybody."""
        states = {first.name: self._state(first) for first in self.sweep.cells if first.name in cell.needs}
        hopeful = all(
            state in ("running", "finished") or (state in self._to_do and name not in self._tried)
            for name, state in states.items()
        )
        return set(states) if hopeful else set()

    def _run_one(self, cell: Cell, lock: int, device: Device) -> None:
        """Runs a cell and says so in a line: what runs now, and later what came of it."""
        cells = self.sweep.cells
        number, total = cells.index(cell) + 1, len(cells)
        width = max(len(other.name) for other in cells)
        print(f"{number:>{len(str(total))}}/{total}  {cell.name:{width}}  ", end="", flush=True)
        begin = time.monotonic()
        done = run_cell(self.sweep, cell, self.folder / cell.name, lock, device)
        reason = f": {done.reason[-1]}" if done.reason else ", no better than chance" if done.collapsed else ""
        print(f"{done.state}  {time.monotonic() - begin:.0f} s{reason}", flush=True)

    def _refuse_changes(self, cell: Cell, *, ours: bool = False) -> None:
        home = self.folder / cell.name
        changed = record.changes(self.sweep, cell, home, ours=ours)
        if changed:
            raise UserError(
                f"{home} was run with other settings: {', '.join(changed)} changed. Results of both would be mixed: "
                "give the sweep file another name, choose another --runs FOLDER, or delete that folder"
            )


def refuse_mistakes(sweep: Sweep, cells: Sequence[Cell]) -> None:
    """Finds what configs and overrides misspell; see `check`."""
    from lit_robust.sweep import check  # builds the parser of a Trainer; heavy

    check.refuse_mistakes(sweep, cells)
