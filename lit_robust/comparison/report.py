"""A comparison on disk and in the terminal."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_robust.comparison.rows import ACCURACY, Row

if TYPE_CHECKING:
    from rich.table import Table

COMPARISON = "comparison"
_COLUMNS = ("row", "quantity", "bound", "run", "value", "n", "difference", "low", "high", "p", "pairs")
_COUNTS = ("both", "only_first", "only_second", "neither")


def write(folder: Path, content: Mapping[str, Any]) -> None:
    """Writes `comparison.json`, and its rows as `comparison.csv` with one line for each row and run."""
    text = json.dumps(_plain(content), indent=2, ensure_ascii=False, allow_nan=False)
    (folder / f"{COMPARISON}.json").write_text(text + "\n")
    with (folder / f"{COMPARISON}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*_COLUMNS, *_COUNTS])
        writer.writeheader()
        writer.writerows(_line(row, label) for row in content["rows"] for label in row["values"])


def _plain(node: Any) -> Any:  # noqa: ANN401 - JSON
    """The same with null for numbers that JSON does not have, which a measurement may give."""
    if isinstance(node, Mapping):
        return {key: _plain(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_plain(value) for value in node]
    return None if isinstance(node, float) and not isfinite(node) else node


def _line(row: Row, label: str) -> dict[str, Any]:
    value, gain = row["values"][label], row["differences"].get(label, {})
    low, high = gain.get("interval_95") or (None, None)
    return {
        "row": row["name"],
        "quantity": row["quantity"],
        "bound": row["bound"],
        "run": label,
        "value": value["value"],
        "n": value.get("n"),
        "difference": gain.get("difference"),
        "low": low,
        "high": high,
        "p": gain.get("p"),
        "pairs": gain.get("n"),
        **{name: gain.get(name) for name in _COUNTS},
    }


def comparison_table(content: Mapping[str, Any]) -> Table:
    """A table with a row for each figure and a column for each run, differences to the first below the figures."""
    from rich.table import Table

    labels: Sequence[str] = [run["label"] for run in content["runs"]]
    table = Table(title=content["title"], title_justify="left")
    table.add_column("")
    for label in labels:
        table.add_column(label, justify="right")
    for row in content["rows"]:
        table.add_row(row["name"], *(_cell(row, label) for label in labels))
    return table


def _cell(row: Row, label: str) -> str:
    share = row["quantity"] == ACCURACY
    value, gain = row["values"][label]["value"], row["differences"].get(label, {})
    figure = "none" if value is None else f"{100 * value:.1f} %" if share else f"{value:.4g}"
    shown = f"{row['bound']} {figure}" if row["bound"] and value is not None else figure
    if gain.get("difference") is None:
        return shown
    numbers = [gain["difference"], *(gain["interval_95"] or [])]
    signed = [f"{100 * number:+.1f}" if share else f"{number:+.3g}" for number in numbers]
    parts = [signed[0], *([f"({signed[1]} to {signed[2]})"] if len(signed) > 1 else [])]
    if gain["p"] is not None:
        parts.append("p < 0.001" if gain["p"] < 0.001 else f"p = {gain['p']:.3f}")
    return f"{shown}\n{' '.join(parts)}"
