"""`sweep draw`: the figures of a sweep over partial training, finished or not, and the numbers in them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_robust.errors import UserError
from lit_robust.sweep import table
from lit_robust.sweep.cell import Sweep
from lit_robust.sweep.partial_cells import CUTOFF, LAYER, partial_cells, places
from lit_robust.sweep.partial_curves import columns, curves
from lit_robust.sweep.partial_figure import cutoff_figure, layer_figure
from lit_robust.sweep.record import write_whole

if TYPE_CHECKING:
    from rich.table import Table

PARTIAL = "partial.json"
_FIGURES = {CUTOFF: ("cutoffs", cutoff_figure), LAYER: ("layers", layer_figure)}


def draw(sweep: Sweep, folder: Path) -> int:
    """Writes `cutoffs_<column>.png` and `layers_<column>.png` for each accuracy and loss, and `partial.json`.

    Args:
        sweep: The sweep.
        folder: Its folder.

    Returns:
        The exit code, 0.

    Raises:
        UserError: If the sweep is not one over partial training, or has no finished run.
    """
    from rich.console import Console

    parts = partial_cells(sweep)
    if not parts:
        raise UserError(
            f"{sweep.name}: expected cells that set model.code, and model.cutoff or model.layer, which is what `draw` "
            "knows how to draw; `sweep status` prints the table of any sweep"
        )
    results = table.summarise(sweep, folder)
    runs = [run["run"] for cell in results["cells"].values() for run in cell["seeds"].values() if "run" in run]
    drawn = columns(results)
    if not runs or not drawn:
        raise UserError(f"{folder} has no finished run with an accuracy to draw; `sweep status` says how far it is")
    where = places(folder / runs[0], parts)
    content = {column: curves(parts, results, where, column) for column in drawn}
    everything = {"sweep": sweep.name, "layers": list(where.layers), "columns": content}
    write_whole(folder / PARTIAL, json.dumps(everything, indent=2, ensure_ascii=False) + "\n")
    for kind, (name, figure) in _FIGURES.items():
        for column, of_column in content.items():
            if any(curve["kind"] == kind and curve["points"] for curve in of_column.values()):
                plain = re.sub(r"[^\w.-]+", "_", column)
                path = folder / f"{name}_{plain}.png"
                share = results["columns"][column] == table.ACCURACY
                figure(of_column, f"{sweep.name}, {column}", share=share).savefig(path, dpi=120)
                print(f"figure: {path}")
    fits = _fits(content)
    if fits.row_count:
        Console(width=160).print(fits)
    print(f"numbers: {folder / PARTIAL}")
    return 0


def _fits(content: Mapping[str, Mapping[str, Any]]) -> Table:
    """How a·exp(−b·k) + c and a line fit each curve over the number of adversarial layers k."""
    from rich.table import Table

    shown = Table(
        title="fits over the number of adversarial layers, with 95 % intervals over seeds", title_justify="left"
    )
    for heading in ("", "", "b", "R² exponential", "R² line", "AIC exponential minus line"):
        shown.add_column(heading, overflow="fold")
    for column, of_column in content.items():
        for label, curve in of_column.items():
            fits = curve["fits"]
            if fits is not None:
                numbers = [(fits["decay"], "b"), (fits["decay"], "r2"), (fits["line"], "r2")]
                cells = [_number(part[key], part["interval_95"][key]) for part, key in numbers]
                difference = fits["aic_difference"]
                shown.add_row(column, label, *cells, _number(difference["value"], difference["interval_95"]))
    return shown


def _number(value: float | None, interval: list[float] | None) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" + ("" if interval is None else f" ({interval[0]:.3g} to {interval[1]:.3g})")
