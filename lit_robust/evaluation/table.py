"""The figures of an evaluation in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


def results_table(results: dict[str, Any], title: str) -> Table:
    """A table with a row for clean images, each attack, and the worst case of each threat model."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for heading in ("", "accuracy", "95 % interval", "correct of N", "passes forward / back", "seconds"):
        table.add_column(heading, justify="left" if not heading else "right")
    table.add_row("clean", *_figures(results["clean"]), "", "")
    for name, figure in results["attacks"].items():
        label = f"{name}, {figure['threat_model']}" if figure["kind"] == "adversary" else f"{name} (noise)"
        at_most = figure["kind"] == "adversary"
        passes = f"{figure['forwards']:,} / {figure['backwards']:,}"
        table.add_row(label, *_figures(figure, at_most), passes, f"{figure['seconds']:.1f}")
    for threat, figure in results["worst_case"].items():
        if len(figure["attacks"]) > 1:
            table.add_row(f"worst case, {threat}", *_figures(figure, at_most=True), "", "", style="bold")
    return table


def _figures(figure: dict[str, Any], at_most: bool = False) -> tuple[str, str, str]:
    low, high = figure["interval_95"]
    accuracy = f"{'at most ' if at_most else ''}{100 * figure['accuracy']:.1f} %"
    return accuracy, f"{100 * low:.1f} to {100 * high:.1f}", f"{figure['correct']:,} of {figure['n']:,}"
