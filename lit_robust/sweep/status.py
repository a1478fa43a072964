"""How far a sweep is: counts, what did not come to its end and why, time left, and the table."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean

from lit_robust.sweep import record, table
from lit_robust.sweep.cell import Cell, Sweep

_OVER = ("finished", "failed", table.CHANGED)  # states of cells that no process will take by itself


def report(sweep: Sweep, folder: Path) -> int:
    """Prints what is not finished and the table, and writes the table.

    Args:
        sweep: The sweep.
        folder: Its folder.

    Returns:
        The exit code: 1 if a cell has failed, else 0.
    """
    from rich.console import Console

    results = table.summarise(sweep, folder)
    states = {run["folder"]: run["state"] for cell in results["cells"].values() for run in cell["seeds"].values()}
    print(f"{sweep.name}: {counted(states.values())}")
    for cell in sweep.cells:
        for line in _details(sweep, cell, folder / cell.name, states[cell.name]):
            print(line)
    for line in [*_blocked(sweep, states), *_time_left(sweep, folder, states)]:
        print(line)
    if "finished" in states.values():
        table.write(results, folder)
        Console(width=None if sys.stdout.isatty() else 160).print(table.results_table(results))
        print(f"table: {folder / table.TABLE}")
    return int("failed" in states.values())


def counted(states: Iterable[str]) -> str:
    """How many cells there are, and how many in each state."""
    counts = sorted(Counter(states).items())
    total = sum(number for _, number in counts)
    return f"{total} cell{'' if total == 1 else 's'}, " + ", ".join(f"{number} {state}" for state, number in counts)


def _details(sweep: Sweep, cell: Cell, home: Path, state: str) -> list[str]:
    """Lines on a cell that did not come to its end, or came to one that is worth a look."""
    known = record.read(home)
    if known is None or state == "waiting":
        return []
    if state == "finished":
        return [f"collapsed    {cell.name}: no better than chance on clean images"] if known.collapsed else []
    if state == "failed":
        log = [f"    {line}" for line in known.reason]
        ended = "" if known.exit_code is None else f", exit code {known.exit_code}"
        return [f"failed       {cell.name}: {known.step}{ended}; {home / record.LOG}", *log]
    if state == table.CHANGED:
        return [f"changed      {cell.name}: {', '.join(record.changes(sweep, cell, home))}"]
    ended = ", which is dead" if state == "lost" else ""
    return [f"{state:12} {cell.name}: {known.step}, process {known.pid} on {known.host}{ended}"]


def _blocked(sweep: Sweep, states: Mapping[str, str]) -> list[str]:
    """A line for each failed first stage that others wait for."""
    waiting = Counter(name for cell in sweep.cells if states[cell.name] == "waiting" for name in cell.needs)
    return [
        f"{number} cell{'' if number == 1 else 's'} cannot start: {name} has failed (--retry-failed tries it again)"
        for name, number in waiting.items()
        if states[name] == "failed"
    ]


def _time_left(sweep: Sweep, folder: Path, states: Mapping[str, str]) -> list[str]:
    """A line on the hours left: a cell takes as long as other seeds of it did on average, else as all cells did."""
    took: dict[str, list[float]] = {}
    for cell in sweep.cells:
        known = record.read(folder / cell.name)
        if states[cell.name] == "finished" and known is not None:
            took.setdefault(cell.group, []).append(sum(known.seconds.values()))
    left = [cell for cell in sweep.cells if states[cell.name] not in _OVER]
    if not took or not left:
        return []
    overall = fmean(seconds for of_group in took.values() for seconds in of_group)
    each = [fmean(took[cell.group]) if cell.group in took else overall for cell in left]
    processes = sum(states[cell.name] == "running" for cell in left)
    hours = max(sum(each) / max(1, processes), *each, 0.0) / 3600
    by = f"with {processes} process{'es' if processes > 1 else ''}" if processes else "for one process; none is running"
    return [f"about {hours:.1f} hours left {by}"]
