"""The pictures of the perturbation-to-signal ratio: histograms of layers below each other, and levels in dB."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lit_robust.callbacks.measurement import Results
from lit_robust.callbacks.run_figure import caption, run_styles, union_of_orders

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIGNS = {"l2": "$L_2$", "l1": "$L_1$", "linf": r"$L_\infty$"}
_LINES = {"": "-", "//": "--", "xx": ":", "..": "-."}  # of the runs that share a colour, by their hatches
_HEIGHT = 0.92  # of the highest bin, in distances between layers


def psr_figure(results: Mapping[str, Results]) -> Figure:
    """Figures 3.12 (left) and 3.13 (right) of the dissertation, with all runs in each.

    Args:
        results: The contents of `psr.json` by run.
    """
    from matplotlib.figure import Figure

    layers = union_of_orders([list(result["layers"]) for result in results.values()])
    norms = union_of_orders([result["norms"] for result in results.values()])
    height = max(3.4, 0.33 * len(layers) + 0.4, 1.9 * len(norms) + 0.8)
    figure = Figure(figsize=(6.4 + min(6.0, 3.0 + 0.2 * len(layers)), height + 1.2), layout="constrained")
    figure.suptitle(f"Perturbation-to-signal ratio at the layers' outputs\n{_caption(results)}", fontsize=9)
    grid = figure.add_gridspec(len(norms), 2, width_ratios=[6.0, min(6.0, 3.0 + 0.2 * len(layers))])
    _ridge(figure.add_subplot(grid[:, 0]), results, layers, norms[0])
    for row, norm in enumerate(norms):
        axis = figure.add_subplot(grid[row, 1])
        _levels(axis, results, layers, norm)
        _name_layers(axis, layers if row == len(norms) - 1 else [], len(layers))
    if len(results) > 1:
        handles, labels = figure.axes[1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), fontsize=8)
    return figure


def psr_epochs_figure(history: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Levels against the layers, a line an epoch, the later the darker.

    Args:
        history: For each epoch `epoch`, how many lay behind, and `psr`, the levels in dB by layer.
        title: What is shown.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    layers = list(history[-1]["psr"])
    figure = Figure(figsize=(min(12.0, 4.0 + 0.3 * len(layers)), 4.6), layout="constrained")
    axis, last = figure.subplots(), history[-1]["epoch"]
    colours = ScalarMappable(Normalize(history[0]["epoch"], max(last, history[0]["epoch"] + 1)), colormaps["viridis_r"])
    for one in history:
        level = [np.nan if one["psr"].get(name) is None else one["psr"][name] for name in layers]
        end = one is history[-1]
        axis.plot(level, "o-", color=colours.to_rgba(one["epoch"]), markersize=3, linewidth=1.8 if end else 0.9)
    axis.set_title(title, fontsize=9)
    axis.set_ylabel(f"mean ratio in {_SIGNS['l2']}, in dB")
    _name_layers(axis, layers, len(layers))
    figure.colorbar(colours, ax=axis, label="epochs of training", ticks=MaxNLocator(integer=True))
    return figure


def _caption(results: Mapping[str, Results]) -> str:
    how = {
        run: {**result, "images": "truncated to 8 bits" if result["eight_bit"] else "as they are"}
        for run, result in results.items()
    }
    return caption(how, {"perturbation": "perturbation", "perturbed images": "images"})


def _ridge(axis: Axes, results: Mapping[str, Results], layers: Sequence[str], norm: str) -> None:
    """Histograms of the layers, the first on top, each scaled to its highest bin: there are narrow and wide ones."""
    having = {run: result for run, result in results.items() if norm in result["norms"]}
    styles = run_styles(list(results))
    for place, name in enumerate(layers):
        axis.axhline(-place, color="0.85", linewidth=0.6)
        for run, result in having.items():
            one = result["layers"].get(name, {}).get(norm)
            if one is None or not sum(one["histogram"]):
                continue
            counts = np.asarray(one["histogram"], dtype=float)
            edges = np.linspace(0, result["limits"][norm], len(counts) + 1)
            curve, colour = _HEIGHT * counts / counts.max() - place, styles[run]["color"]
            axis.stairs(curve, edges, baseline=-place, fill=True, color=colour, alpha=0.35)
            axis.stairs(curve, edges, baseline=-place, color=colour, linewidth=0.7)
    axis.set_yticks([-place for place in range(len(layers))], layers, fontsize=8 if len(layers) <= 24 else 6)
    axis.set_ylim(0.9 - len(layers), _HEIGHT + 0.1)
    axis.set_xlim(0, max((result["limits"][norm] for result in having.values()), default=1.0))
    axis.set_xlabel(f"ratio of an image in {_SIGNS[norm]}")
    axis.set_title("histograms over the images, each scaled to its highest bin", fontsize=8)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)


def _levels(axis: Axes, results: Mapping[str, Results], layers: Sequence[str], norm: str) -> None:
    """A line a run, with a band of the 95 % intervals of the means; a layer that a run has not stays empty."""
    for run, style in run_styles(list(results)).items():
        ones = [results[run]["layers"].get(name, {}).get(norm) or {} for name in layers]
        level = [np.nan if one.get("db") is None else one["db"] for one in ones]
        low, high = ([(one.get("interval_95_db") or [np.nan] * 2)[side] for one in ones] for side in (0, 1))
        line, at = _LINES[style.get("hatch", "")], range(len(layers))
        axis.fill_between(at, low, high, color=style["color"], alpha=0.2, linewidth=0)
        axis.plot(at, level, line, color=style["color"], marker="o", markersize=3, linewidth=1.2, label=run)
    axis.set_ylabel(f"mean in {_SIGNS[norm]}, in dB", fontsize=8)
    axis.tick_params(axis="y", labelsize=8)


def _name_layers(axis: Axes, names: Sequence[str], count: int) -> None:
    axis.set_xticks(range(count), names or [""] * count, fontsize=8 if count <= 24 else 6)
    axis.tick_params(axis="x", labelrotation=90 if count > 4 else 0)
    axis.set_xlim(-0.5, count - 0.5)
    axis.grid(alpha=0.3)
    axis.set_axisbelow(True)
