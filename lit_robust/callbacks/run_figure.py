"""What figures of one or several runs share: colours, captions, and bars of a number a layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lit_robust.callbacks.measurement import Results
from lit_robust.plots.curve import draw_accuracy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito (2008), which colour-blind people tell apart, with a grey for what the others are compared with.
_ALONE = "#0072B2"
_COLOURS = ("#7F7F7F", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_HATCHES = ("", "//", "xx", "..")
SIGMA = r"$\sigma$"


def run_styles(runs: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour of each run, and a hatch once the colours are used up; the first of several is grey, the baseline."""
    if len(runs) == 1:
        return {runs[0]: {"color": _ALONE}}
    return {
        run: {"color": _COLOURS[i % len(_COLOURS)], "hatch": _HATCHES[i // len(_COLOURS) % len(_HATCHES)]}
        for i, run in enumerate(runs)
    }


def caption(results: Mapping[str, Results], settings: Mapping[str, str]) -> str:
    """Samples, seed and settings of the runs in a line; a line a run where they differ.

    Args:
        results: Saved results by run.
        settings: What else is told, as keys of the results by the sign that they are shown with.
    """
    lines = {}
    for run, result in results.items():
        protocol = result["protocol"]
        parts = [f"N = {protocol['samples']:,}", *(f"{sign} = {result[key]}" for sign, key in settings.items())]
        lines[run] = ", ".join([*parts, f"seed {protocol['seed']}"])
    if len(set(lines.values())) <= 1:
        return next(iter(lines.values()), "")
    return "\n".join(f"{run}: {line}" for run, line in lines.items())


def union_of_orders(orders: Sequence[Sequence[str]]) -> list[str]:
    """All names of several lists, each after its predecessor in the first list that has it."""
    union: list[str] = []
    for order in orders:
        place = 0
        for name in order:
            if name in union:
                place = union.index(name) + 1
            else:
                union.insert(place, name)
                place += 1
    return union


def layer_bars(axis: Axes, values: Mapping[str, Mapping[str, float | None]], label: str) -> None:
    """Draws a bar for each layer and run; a layer that a run has not stays empty.

    Args:
        axis: Where to draw.
        values: Number of each layer, in the order of the layers, by run; None where there is none.
        label: Quantity and unit, for the vertical axis.
    """
    layers = union_of_orders([list(numbers) for numbers in values.values()])
    width = 0.8 / max(1, len(values))
    for i, (run, style) in enumerate(run_styles(list(values)).items()):
        known = {name: value for name, value in values[run].items() if value is not None}
        at = [layers.index(name) + (i - (len(values) - 1) / 2) * width for name in known]
        axis.bar(at, list(known.values()), width, label=run, edgecolor="white", linewidth=0.4, **style)
    axis.set_xticks(range(len(layers)), layers, fontsize=8 if len(layers) <= 24 else 6)
    if sum(map(len, layers)) > 70:
        axis.tick_params(axis="x", rotation=90 if len(layers) > 24 else 45)
        for text in axis.get_xticklabels():
            text.set_horizontalalignment("center" if len(layers) > 24 else "right")
            text.set_rotation_mode("default" if len(layers) > 24 else "anchor")
    axis.set_xlim(-0.6, max(1, len(layers)) - 0.4)
    axis.set_ylabel(label)
    axis.grid(axis="y", alpha=0.3)
    axis.set_axisbelow(True)
    if len(values) > 1:
        axis.margins(y=0.2)  # room for the legend above the bars
        axis.legend(fontsize=8, ncols=min(4, len(values)), loc="upper center")


def bars_width(values: Mapping[str, Mapping[str, object]]) -> float:
    """Width in inches of a figure that has room for the bars."""
    layers = union_of_orders([list(numbers) for numbers in values.values()])
    return min(16.0, max(5.0, 1.5 + len(layers) * (0.28 + 0.1 * len(values))))


def accuracy_curve(axis: Axes, run: str, points: Sequence[Mapping[str, Any]], colour: str) -> None:
    """Draws accuracy against the radius, with a band of its 95 % intervals.

    Args:
        axis: Where to draw.
        run: Name of the curve, for a legend.
        points: `eps`, `accuracy` and `interval_95` of each radius.
        colour: Its colour.
    """
    eps = [point["eps"] for point in points]
    low, high = ([100 * point["interval_95"][side] for point in points] for side in (0, 1))
    axis.fill_between(eps, low, high, color=colour, alpha=0.15, linewidth=0)
    draw_accuracy(axis, run, eps, [point["accuracy"] for point in points], colour)
