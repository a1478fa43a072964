"""What a sweep found: mean and standard deviation over the finished seeds of each cell."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_robust.sweep.cell import Sweep
from lit_robust.sweep.record import Record, changes, read, state, write_whole

if TYPE_CHECKING:
    from rich.table import Table

SCHEMA = 1
TABLE = "table.csv"
RESULTS = "results.json"  # of a sweep, and of a test
CHANGED = "changed"  # state of a cell that was trained with other settings than the file has now
ACCURACY, NUMBER = "accuracy", "number"  # what a column holds; the table shows accuracies in per cent
_SIDE_BY_SIDE = 9  # figures that fit into the width of a terminal beside each other


def summarise(sweep: Sweep, folder: Path) -> dict[str, Any]:
    """The figures of all finished runs, and their mean and deviation over seeds, as plain JSON.

    Columns are `<test>/<figure>`: `clean` and each attack's accuracy, the mean distance of a minimum-norm attack, and
    the numbers that any other JSON of the test's folder has under `table`.

    Args:
        sweep: The sweep.
        folder: Its folder.
    """
    columns: dict[str, str] = {}
    cells: dict[str, dict[str, Any]] = {}
    for cell in sweep.cells:
        home = folder / cell.name
        group = cells.setdefault(cell.group, {"choices": dict(cell.choices), "first": cell.first, "seeds": {}})
        now = CHANGED if changes(sweep, cell, home) else state(sweep, cell, home)
        run: dict[str, Any] = {"state": now, "folder": cell.name}
        record = read(home)
        if now == "finished" and record is not None:
            run |= {"run": f"{cell.name}/{record.run}", "collapsed": record.collapsed, "results": {}, "values": {}}
            for title, column, kind, value in _figures(record, home, list(cell.tests)):
                run["results"][title] = f"{cell.name}/{record.tests[title]['folder']}/{RESULTS}"
                run["values"][column] = value
                columns[column] = kind
        group["seeds"][str(cell.seed)] = run
    for group in cells.values():
        group.update(_over_seeds(group["seeds"], columns))
    return {"schema": SCHEMA, "sweep": sweep.name, "axes": list(sweep.axes), "columns": columns, "cells": cells}


def _figures(record: Record, home: Path, titles: list[str]) -> Iterator[tuple[str, str, str, float]]:
    """The figures of a finished run as (test, column, kind, value)."""
    for title in titles:
        folder = home / record.tests[title]["folder"]
        for path in sorted(folder.glob("*.json"), key=lambda p: (p.name != RESULTS, p.name)):
            content = json.loads(path.read_text())
            if not isinstance(content, dict):
                continue
            if path.name == RESULTS:
                attacks = {"clean": content.get("clean", {}), **content.get("attacks", {})}
                for name, figure in attacks.items():
                    mean = _number((figure.get("minimum_norm") or {}).get("mean"))
                    if "accuracy" in figure:
                        yield title, f"{title}/{name}", ACCURACY, float(figure["accuracy"])
                    elif mean is not None:
                        yield title, f"{title}/{name} mean norm", NUMBER, mean
            figures = content.get("table")
            for name, value in figures.items() if isinstance(figures, dict) else ():
                number = _number(value)
                if number is not None:
                    yield title, f"{title}/{name}", NUMBER, number


def _number(value: object) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
    return float(value) if known else None  # type: ignore[arg-type]


def _over_seeds(seeds: Mapping[str, dict[str, Any]], columns: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    found = [run["values"] for run in seeds.values() if "values" in run]
    values = {column: [run[column] for run in found if column in run] for column in columns}
    return {
        "n": {column: len(listed) for column, listed in values.items()},
        "mean": {column: statistics.fmean(listed) for column, listed in values.items() if listed},
        "deviation": {
            column: statistics.stdev(listed)
            for column, listed in values.items()
            if len(listed) > 1 and all(math.isfinite(value) for value in listed)
        },
    }


def write(results: Mapping[str, Any], folder: Path) -> None:
    """Writes `table.csv` (plain numbers, a row a cell) and `results.json` (also those of each seed)."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / RESULTS, json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    axes = results["axes"]
    figures = [f"{column} {what}" for column in results["columns"] for what in ("mean", "std", "n")]
    writer.writerow(["cell", *axes, "finished", "seeds", "collapsed", *figures])
    for name, cell in results["cells"].items():
        row = [cell[what].get(column, "") for column in results["columns"] for what in ("mean", "deviation", "n")]
        choices = [cell["choices"].get(axis, "") for axis in axes]  # a first stage has none
        writer.writerow([name, *choices, _finished(cell), len(cell["seeds"]), _collapsed(cell), *row])
    write_whole(folder / TABLE, text.getvalue())


def results_table(results: Mapping[str, Any]) -> Table:
    """Mean ± sample standard deviation over the finished seeds: a row a cell and a column a figure.

    Where the figures are too many to stand side by side, it is a row a figure and a column a cell.
    """
    from rich.table import Table

    table = Table(title=f"{results['sweep']}: mean ± standard deviation over seeds", title_justify="left")
    cells, columns = results["cells"], results["columns"]
    headings = {column: f"{column}, %" if kind == ACCURACY else column for column, kind in columns.items()}
    seeds = {name: _seeds(cell) for name, cell in cells.items()}
    table.add_column("" if len(columns) > _SIDE_BY_SIDE else "cell")
    if len(columns) > _SIDE_BY_SIDE:
        for name in cells:
            table.add_column(name, justify="right", overflow="fold")
        table.add_row("seeds", *seeds.values())
        for column, kind in columns.items():
            table.add_row(headings[column], *(_show(cell, column, kind) for cell in cells.values()))
        return table
    table.add_column("seeds", justify="right")
    for heading in headings.values():
        table.add_column(heading.replace("/", "\n", 1), justify="right", overflow="fold")
    for name, cell in cells.items():
        table.add_row(name, seeds[name], *(_show(cell, column, kind) for column, kind in columns.items()))
    return table


def _finished(cell: Mapping[str, Any]) -> int:
    return sum(run["state"] == "finished" for run in cell["seeds"].values())


def _seeds(cell: Mapping[str, Any]) -> str:
    collapsed = _collapsed(cell)
    return f"{_finished(cell)} of {len(cell['seeds'])}" + (f", {collapsed} collapsed" if collapsed else "")


def _collapsed(cell: Mapping[str, Any]) -> int:
    return sum(bool(run.get("collapsed")) for run in cell["seeds"].values())


def _show(cell: Mapping[str, Any], column: str, kind: str) -> str:
    if column not in cell["mean"]:
        return ""
    scale, form, form_deviation = (100, ".1f", ".1f") if kind == ACCURACY else (1, ".4g", ".2g")
    deviation = cell["deviation"].get(column)
    shown = f"{scale * cell['mean'][column]:{form}}"
    shown += "" if deviation is None else f" ± {scale * deviation:{form_deviation}}"
    n = cell["n"][column]
    return shown if n == _finished(cell) else f"{shown} ({n})"  # a figure that not every seed has
