"""The picture of singular values: their curves over the largest, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lit_robust.callbacks.measurement import Results
from lit_robust.callbacks.run_figure import run_styles, union_of_orders

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
_SAID = {"circular": "circular", "zeros": "zero"}


def spectrum_figure(results: Mapping[str, Results]) -> Figure:
    """Singular values by rank, divided by the largest (dissertation, Fig. 3.20 and 3.21).

    Rows are the first two, the middle two and the last two layers of the runs. Four runs, or six, are drawn as pairs in
    the order in which they are given, each in a column of its own: natural and adversarial of one optimizer, then of
    the other. The ranks are shares of all values, or on a logarithmic axis if only leading ones are known.

    Args:
        results: The contents of `singular_values.json` by run.
    """
    from matplotlib.figure import Figure

    groups = run_groups(list(results))
    shown = [ends_and_middle(union_of_orders([list(results[run]["layers"]) for run in group])) for group in groups]
    rows = max(map(len, shown))
    figure = Figure(figsize=(0.6 + 4.4 * len(groups), 1.2 + 1.5 * rows), layout="constrained")
    axes = figure.subplots(rows, len(groups), squeeze=False, sharey=True)
    whole = all(layer["known"] == layer["count"] for result in results.values() for layer in result["layers"].values())
    for column, (group, layers) in enumerate(zip(groups, shown, strict=True)):
        for row in range(rows):
            axis = axes[row, column]
            if row >= len(layers):
                axis.set_axis_off()
                continue
            _panel(axis, {run: results[run] for run in group}, layers[row], whole)
        axes[0, column].legend(fontsize=8, loc="best")
        axes[len(layers) - 1, column].set_xlabel("rank, as a share of all" if whole else "rank", fontsize=8)
    paddings = " or ".join(dict.fromkeys(_SAID[result["padding"]] for result in results.values()))
    figure.suptitle(f"Singular values of convolutions over the largest,\nwith {paddings} padding", fontsize=9)
    return figure


def run_groups(runs: Sequence[str]) -> list[list[str]]:
    """Runs that share a column: pairs of four or a larger even number, else all."""
    if len(runs) >= 4 and len(runs) % 2 == 0:
        return [list(runs[i : i + 2]) for i in range(0, len(runs), 2)]
    return [list(runs)]


def ends_and_middle(layers: Sequence[str]) -> list[str]:
    """The first two, middle two and last two of a list, each once."""
    middle = (len(layers) - 1) // 2
    chosen = {0, 1, middle, middle + 1, len(layers) - 2, len(layers) - 1}
    return [name for place, name in enumerate(layers) if place in chosen]


def _panel(axis: Axes, results: Mapping[str, Results], name: str, whole: bool) -> None:
    for run, style in run_styles(list(results)).items():
        layer = results[run]["layers"].get(name)
        if layer is not None:
            share = layer["count"] if whole else 1
            ranks = [rank / share for rank in layer["ranks"]]
            axis.plot(ranks, layer["values"], color=style["color"], label=run, linewidth=1.4)
    axis.set_title(name, fontsize=8, loc="left", pad=2)
    axis.set_ylim(0, 1.05)
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.3)
    if whole:
        axis.set_xlim(0, 1)
    else:
        axis.set_xscale("log")
