"""The picture of numbers of filters: a histogram a run for each layer, and how far the runs are apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

from lit_robust.callbacks.measurement import Results
from lit_robust.callbacks.run_figure import run_styles, union_of_orders

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BINS = 8, 30  # fewest and most
_ACROSS = 4  # panels beside each other


def weight_histograms(
    results: Mapping[str, Results],
    quantities: Mapping[str, str],
    distances: Sequence[Mapping[str, Any]],
    title: str,
) -> Figure:
    """A panel for each layer and quantity; several quantities are columns.

    Args:
        results: Saved results by run, with `layers` of `quantities` of `values`.
        quantities: Label of each quantity by its key.
        distances: Of the other runs to the first; see `WeightStatistics.distances`.
        title: What is shown.
    """
    from matplotlib.figure import Figure

    layers = union_of_orders([list(result["layers"]) for result in results.values()])
    places = [(layer, quantity) for layer in layers for quantity in quantities]
    across = len(quantities) if len(quantities) > 1 else min(_ACROSS, len(layers))
    rows = ceil(len(places) / across)
    height = 1.0 + 0.13 * max(0, len(results) - 2)  # of a panel, with a line of text for each run after the first
    figure = Figure(figsize=(0.6 + 2.6 * across, 1.1 + height * rows), layout="constrained")
    axes = figure.subplots(rows, across, squeeze=False)
    for axis, (layer, quantity) in zip(axes.flat, places, strict=False):
        numbers = {run: r["layers"][layer][quantity]["values"] for run, r in results.items() if layer in r["layers"]}
        _panel(axis, numbers, run_styles(list(results)))
        apart = [each for each in distances if (each["layer"], each["quantity"]) == (layer, quantity)]
        _say(axis, apart, run_styles(list(results)))
        named = layer == layers[0] and len(quantities) > 1
        axis.set_title(f"{layer}: {quantities[quantity]}" if named else layer, fontsize=7, loc="left", pad=2)
    for axis in axes.flat[len(places) :]:
        axis.set_axis_off()
    for axis, label in zip(axes[-1], list(quantities.values()) * across, strict=False):
        axis.set_xlabel(label if len(quantities) > 1 else "", fontsize=8)
    whole = title if len(quantities) > 1 else f"{title}: {next(iter(quantities.values()))}"
    _legend(figure, axes[0, 0], results, whole)
    return figure


def _panel(axis: Axes, numbers: Mapping[str, Sequence[float]], styles: Mapping[str, Mapping[str, Any]]) -> None:
    every = np.concatenate([np.asarray(values, dtype=float) for values in numbers.values()])
    bins = int(np.clip(1.4 * max(map(len, numbers.values())) ** 0.5, *_BINS))
    edges = np.histogram_bin_edges(every, bins) if len(every) else np.array([0.0, 1.0])
    for run, values in numbers.items():
        counts, _ = np.histogram(values, edges)
        shares = 100 * counts / max(1, len(values))
        colour = styles[run]["color"]
        if len(styles) <= 2:  # areas of more runs hide one another
            axis.stairs(shares, edges, fill=True, color=colour, alpha=0.3)
        axis.stairs(shares, edges, color=colour, linewidth=0.9, label=run)
    axis.tick_params(labelsize=6, length=2, pad=1)
    axis.locator_params(axis="x", nbins=5)
    axis.locator_params(axis="y", nbins=3)
    axis.margins(x=0.02)


def _say(axis: Axes, apart: Sequence[Mapping[str, Any]], styles: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes the distances to the first run above the panel, in the colours of the runs."""
    for line, each in enumerate(reversed(apart)):
        if each["distance"] is not None:
            low, high = each["interval_95"]
            axis.annotate(
                f"{each['distance']:.2f} [{low:.2f}, {high:.2f}]",
                (1, 1),
                (0, 2 + 7 * line),
                xycoords="axes fraction",
                textcoords="offset points",
                ha="right",
                fontsize=6,
                color=styles[each["run"]]["color"],
            )


def _legend(figure: Figure, first: Axes, results: Mapping[str, Results], title: str) -> None:
    lines = [f"{title}; share of a layer's filters in %"]
    if len(results) > 1:
        lines.append(f"numbers: distance to {next(iter(results))} (Wasserstein-1 in pooled standard deviations)")
        lines.append("and its 95 % interval; one that begins at 0.00 may be chance")
    figure.suptitle("\n".join(lines), fontsize=8)
    handles, labels = first.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), fontsize=8)
