"""`python -m lit_robust sweep`: runs what is left of a sweep, or says how far it is."""

from __future__ import annotations

import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lit_robust import shipped
from lit_robust.errors import UserError
from lit_robust.sweep import record, table
from lit_robust.sweep.cell_run import run_cell
from lit_robust.sweep.claim import claim
from lit_robust.sweep.file import Cell, Sweep, load

_USAGE = """usage: python -m lit_robust sweep FILE [--runs FOLDER] [--retry-failed] [--KEY VALUE]...
       python -m lit_robust sweep status FILE [--runs FOLDER]

Runs every cell of a sweep file (a path, or the bare name of a shipped one): `fit`, and `test` where the file asks for
it. Finished cells are skipped and interrupted ones go on, so that the command may be stopped and given again, and given
by several processes at once, also on machines that share the folder.

  --runs FOLDER           folder of all runs, instead of runs/; the sweep is in FOLDER/sweeps/NAME
  --retry-failed          tries failed cells again, from their last checkpoint
  --KEY VALUE             overrides a setting of every cell, as in --data.root DATA

The exit code is 0 if no cell has failed, 1 if some have, 2 for a mistake in the file, 130 after Ctrl-C. A cell that
another process is at is left to it."""

INTERRUPTED = 130


@dataclass(frozen=True)
class _Asked:
    file: Path
    root: Path
    status: bool
    retry: bool
    settings: tuple[str, ...]

    def folder(self, sweep: Sweep) -> Path:
        return self.root / "sweeps" / sweep.name


def main(argv: Sequence[str]) -> int:
    """Runs `sweep` and returns its exit code.

    Raises:
        UserError: For mistakes in the file or the command, before anything runs.
    """
    if not argv or {"-h", "--help"} & set(argv):
        print(_USAGE)
        return 0
    asked = _read(argv)
    sweep = load(asked.file, None if asked.status else asked.settings)
    folder = asked.folder(sweep)
    if not asked.status:
        try:
            with _stopped_by(signal.SIGTERM, signal.SIGHUP):
                _run(sweep, asked, folder)
        except KeyboardInterrupt:
            print("\ninterrupted; the same command goes on", file=sys.stderr)
            return INTERRUPTED
    return _report(sweep, folder)


def _read(argv: Sequence[str]) -> _Asked:
    names, settings, root, retry = [], [], "runs", False
    rest = iter(argv)
    for argument in rest:
        option, equals, value = argument.partition("=")
        if not argument.startswith("-"):
            names.append(argument)
        elif argument == "--retry-failed":
            retry = True
        elif not argument.startswith("--"):
            raise UserError(f"a sweep has no option {argument}")
        else:
            given = value if equals else next(rest, None)
            if given is None or (not equals and given.startswith("--")):
                raise UserError(f"expected a value after {option}")
            if option == "--runs":
                root = given
            else:
                settings.append(f"{option}={given}")
    status = names[:1] == ["status"]
    files = names[status:]
    if len(files) != 1 or (status and (settings or retry)):
        raise UserError(f"expected one sweep file, got {' '.join(argv)}\n{_USAGE.partition(chr(10) * 2)[0]}")
    return _Asked(shipped.find(files[0], shipped.SWEEPS), Path(root), status, retry, tuple(settings))


def _run(sweep: Sweep, asked: _Asked, folder: Path) -> None:
    """Runs what is left, in the order of the file, until a look at all cells finds nothing more to do."""
    for cell in sweep.cells:
        _refuse_changes(sweep, cell, folder / cell.name)
    to_do = {"waiting", "interrupted", *(["failed"] if asked.retry else [])}
    states = {cell.name: record.state(sweep, cell, folder / cell.name) for cell in sweep.cells}
    waiting = [cell for cell in sweep.cells if states[cell.name] in to_do]
    if waiting:
        _refuse_mistakes(sweep, waiting)
        print(f"{sweep.name}: {_counted(states.values())}", flush=True)
    tried: set[str] = set()
    begun = -1
    while begun < len(tried):  # again, since another process may have died meanwhile
        begun = len(tried)
        for cell in sweep.cells:
            home = folder / cell.name
            if cell.name in tried or record.state(sweep, cell, home) not in to_do:
                continue
            with claim(home) as lock:
                # Another process may have been faster, and have ended since.
                if lock is not None and record.state(sweep, cell, home, ours=True) in to_do:
                    tried.add(cell.name)
                    if load(asked.file, asked.settings) != sweep:
                        raise UserError(f"{asked.file} or a config of it changed while it ran; start the sweep again")
                    _refuse_changes(sweep, cell, home, ours=True)
                    _run_one(sweep, cell, home, lock)


def _run_one(sweep: Sweep, cell: Cell, home: Path, lock: int) -> None:
    """Runs a cell and says so in a line: what runs now, and later what came of it."""
    number, total = sweep.cells.index(cell) + 1, len(sweep.cells)
    width = max(len(other.name) for other in sweep.cells)
    print(f"{number:>{len(str(total))}}/{total}  {cell.name:{width}}  ", end="", flush=True)
    begin = time.monotonic()
    done = run_cell(sweep, cell, home, lock)
    reason = f": {done.reason[-1]}" if done.reason else ""
    print(f"{done.state}  {time.monotonic() - begin:.0f} s{reason}", flush=True)


def _refuse_changes(sweep: Sweep, cell: Cell, home: Path, *, ours: bool = False) -> None:
    changed = record.changes(sweep, cell, home, ours=ours)
    if changed:
        raise UserError(
            f"{home} was run with other settings: {', '.join(changed)} changed. Results of both would be mixed: give "
            "the sweep file another name, choose another --runs FOLDER, or delete that folder"
        )


def _refuse_mistakes(sweep: Sweep, cells: Sequence[Cell]) -> None:
    from lit_robust.sweep.check import refuse_mistakes  # builds the parser of a Trainer; heavy

    refuse_mistakes(sweep, cells)


def _report(sweep: Sweep, folder: Path) -> int:
    """Prints what is not finished and the table, writes the table, and returns the exit code."""
    from rich.console import Console

    results = table.summarise(sweep, folder)
    states = {run["folder"]: run["state"] for cell in results["cells"].values() for run in cell["seeds"].values()}
    print(f"{sweep.name}: {_counted(states.values())}")
    for cell in sweep.cells:
        for line in _details(sweep, cell, folder / cell.name, states[cell.name]):
            print(line)
    if "finished" in states.values():
        table.write(results, folder)
        Console(width=None if sys.stdout.isatty() else 160).print(table.results_table(results))
        print(f"table: {folder / table.TABLE}")
    return int("failed" in states.values())


def _details(sweep: Sweep, cell: Cell, home: Path, state: str) -> list[str]:
    """Lines on a cell that did not come to its end."""
    known = record.read(home)
    if known is None or state in ("finished", "waiting"):
        return []
    if state == "failed":
        log = [f"    {line}" for line in known.reason]
        ended = "" if known.exit_code is None else f", exit code {known.exit_code}"
        return [f"failed       {cell.name}: {known.step}{ended}; {home / record.LOG}", *log]
    if state == table.CHANGED:
        return [f"changed      {cell.name}: {', '.join(record.changes(sweep, cell, home))}"]
    return [f"{state:12} {cell.name}: {known.step}, process {known.pid} on {known.host}"]


def _counted(states: Iterable[str]) -> str:
    counts = sorted(Counter(states).items())
    total = sum(number for _, number in counts)
    return f"{total} cell{'' if total == 1 else 's'}, " + ", ".join(f"{number} {state}" for state, number in counts)


@contextmanager
def _stopped_by(*signals: signal.Signals) -> Iterator[None]:
    """Lets signals end the sweep as Ctrl-C does, unless they were told to be ignored, as by nohup."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in signals}
    for number in signals:
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in signals:
            signal.signal(number, before[number])
