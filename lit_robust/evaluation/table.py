"""The figures of an evaluation in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lit_robust.threat import NAMES

if TYPE_CHECKING:
    from rich.table import Table


def results_table(results: dict[str, Any], title: str) -> Table:
    """A table with a row for clean images, each attack, and the worst case of each threat model.

    A minimum-norm attack has a row of norms: alone without a radius, below that of its accuracy with one.
    """
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for heading in ("", "accuracy", "95 % interval", "correct of N", "passes forward / back", "seconds"):
        table.add_column(heading, justify="left" if not heading else "right")
    table.add_row("clean", *_figures(results["clean"]), "", "")
    replayed = {f"{name}/screened": screening["images"] for name, screening in results.get("screening", {}).items()}
    for name, figure in results["attacks"].items():
        of = f" (first {replayed[name]})" if name in replayed else ""
        label = f"{name}{of}, {figure['threat_model']}" if figure["kind"] == "adversary" else f"{name} (noise)"
        at_most = figure["kind"] == "adversary"
        costs = [f"{figure['forwards']:,} / {figure['backwards']:,}", f"{figure['seconds']:.1f}"]
        rows = [(label, _figures(figure, at_most))] if "accuracy" in figure else []
        if "minimum_norm" in figure:
            rows.append((f"{name}, mean {NAMES[figure['minimum_norm']['norm']]} norm", _norms(figure["minimum_norm"])))
        for (first, cells), cost in zip(rows, [costs, ["", ""]], strict=False):
            table.add_row(first, *cells, *cost)
    for threat, figure in results["worst_case"].items():
        if len(figure["attacks"]) > 1:
            table.add_row(f"worst case, {threat}", *_figures(figure, at_most=True), "", "", style="bold")
    return table


def screening_table(screening: dict[str, Any], name: str) -> Table:
    """A table with a row for each combination of backward passes that was screened, the strongest first."""
    from rich.table import Table

    title = f"{name}: every combination of backward passes on the first {screening['images']} images"
    table = Table(title=title, title_justify="left")
    for heading in ("backward passes", "accuracy", "95 % interval", "correct of N", "seconds", "on all images"):
        table.add_column(heading, justify="left" if heading == "backward passes" else "right")
    for row in sorted(screening["combinations"], key=lambda row: float(row["correct"])):
        kept = "yes" if row["kept"] else ""
        table.add_row(row["label"], *_figures(row, at_most=True), f"{row['seconds']:.1f}", kept)
    return table


def _figures(figure: dict[str, Any], at_most: bool = False) -> tuple[str, str, str]:
    low, high = figure["interval_95"]
    accuracy = f"{'at most ' if at_most else ''}{100 * figure['accuracy']:.1f} %"
    return accuracy, f"{100 * low:.1f} to {100 * high:.1f}", f"{round(figure['correct'], 1):,} of {figure['n']:,}"


def _norms(figure: dict[str, Any]) -> tuple[str, str, str]:
    """Mean and median, the mean's interval, and for how many images they stand."""
    mean, median = ("none" if figure[key] is None else f"{figure[key]:.3g}" for key in ("mean", "median"))
    interval = "" if figure["interval_95"] is None else " to ".join(f"{limit:.3g}" for limit in figure["interval_95"])
    return f"at most {mean}, median {median}", interval, f"found {figure['found']:,} of {figure['n']:,}"
