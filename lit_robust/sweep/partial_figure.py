"""Figures 3.6 to 3.11: accuracy and loss against the cutoff, with bands over seeds, and differences to the controls."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lit_robust.sweep.partial_cells import CUTOFF, LAYER

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito (2008), which colour-blind people tell apart: blue for natural, orange for adversarial training.
_WAYS = {"A": "#D55E00", "N": "#0072B2"}
_FIT = "#666666"
_COLLAPSED = "collapsed to guessing"
_MANY = 14  # names on an axis from which on they stand upright
Curves = Mapping[str, Mapping[str, Any]]  # see `partial_curves.curves`


def cutoff_figure(curves: Curves, title: str, *, share: bool) -> Figure:
    """A row a code: the values with a band from the lowest to the highest seed, and the differences to the control.

    Args:
        curves: The points of each code, of cutoffs.
        title: What is drawn.
        share: Whether values are shares, shown in per cent.
    """
    from matplotlib.figure import Figure

    rows = {label: curve for label, curve in curves.items() if curve["kind"] == CUTOFF and curve["points"]}
    most = max((len(curve["points"]) for curve in rows.values()), default=1)
    figure = Figure(
        figsize=(min(20.0, 7.0 + 0.26 * most), 0.6 + (2.7 if most <= _MANY else 3.6) * max(1, len(rows))),
        layout="constrained",
    )
    axes = figure.subplots(max(1, len(rows)), 2, squeeze=False)
    for (label, curve), (left, right) in zip(rows.items(), axes, strict=False):
        _values(left, curve, share)
        _differences(right, curve, share)
        more = "more" if curve["code"][0] == "A" else "fewer"
        direction = f": {more} adversarial layers to the right" if curve["code"][0] != curve["code"][2] else ""
        left.set_title(f"{label}{direction}", fontsize=9, loc="left")
    for axis in axes[1:, 0]:
        axis.sharey(axes[0, 0])
    figure.suptitle(f"{title}; bands: lowest to highest seed; differences: mean and 95 % interval", fontsize=9)
    return figure


def layer_figure(curves: Curves, title: str, *, share: bool) -> Figure:
    """Fig. 3.11: what a network loses with one layer retrained the other way, for each layer; a dot a seed.

    Args:
        curves: The points of each code, of single layers.
        title: What is drawn.
        share: Whether values are shares, shown in per cent.
    """
    from matplotlib.figure import Figure

    rows = {label: curve for label, curve in curves.items() if curve["kind"] == LAYER and curve["points"]}
    most = max((len(curve["points"]) for curve in rows.values()), default=1)
    figure = Figure(figsize=(min(16.0, 4.0 + 0.26 * most), 0.6 + 3.0 * max(1, len(rows))), layout="constrained")
    for (label, curve), axis in zip(
        rows.items(), figure.subplots(max(1, len(rows)), squeeze=False)[:, 0], strict=False
    ):
        points, scale = curve["points"], 100 if share else 1
        known = [point for point in points if point["difference"]["mean"] is not None]
        at = [points.index(point) for point in known]
        axis.bar(
            at, [-scale * point["difference"]["mean"] for point in known], color=_WAYS[curve["code"][0]], alpha=0.7
        )
        for x, point in zip(at, known, strict=True):
            interval = point["difference"]["interval_95"]
            if interval is not None:
                axis.vlines(x, *(-scale * bound for bound in interval), color="black", linewidth=1)
        for x, point in enumerate(points):
            if point["collapsed"]:
                axis.plot(x, 0, "kx", label=_COLLAPSED)
        axis.axhline(0, color="black", linewidth=0.6)
        axis.set_xticks(range(len(points)), [point["name"] for point in points], fontsize=7)
        _upright(axis, len(points))
        axis.set_ylabel(f"{curve['control']} minus this" + (", points" if share else ""))
        axis.set_title(f"{label}, one layer retrained", fontsize=9, loc="left")
        axis.grid(axis="y", alpha=0.3)
        _legend(axis)
    figure.suptitle(f"{title}; mean and 95 % interval over seeds", fontsize=9)
    return figure


def _values(axis: Axes, curve: Mapping[str, Any], share: bool) -> None:
    """Means with their band, end points as squares, collapsed runs as crosses, and fits of a loss."""
    scale, points = 100 if share else 1, curve["points"]
    x = [point["place"] for point in points]
    low, mean, high = (  # a gap where all runs have collapsed
        [math.nan if point[key] is None else scale * point[key] for point in points] for key in ("low", "mean", "high")
    )
    way = _WAYS[curve["code"][curve["code"].index("2") - 1]]
    axis.fill_between(x, low, high, color=way, alpha=0.2, linewidth=0)
    axis.plot(x, mean, "o-", color=way, markersize=3, linewidth=1.2, label="mean over seeds")
    for place, value, name in zip(x, mean, [point["name"] for point in points], strict=True):
        if name in ("none", "all"):
            end = curve["code"][2 if name == "none" else 0]
            label = f"all-{'adversarial' if end == 'A' else 'natural'}, stage one"
            axis.plot(place, value, "s", color=_WAYS[end], markersize=6, label=label)
    for point in points:
        for seed in point["collapsed"]:
            axis.plot(point["place"], scale * point["values"][seed], "kx", markersize=5, label=_COLLAPSED)
    if not share and curve["fits"] is not None:
        _fitted(axis, curve)
    _places(axis, points)
    axis.set_ylabel("accuracy, %" if share else "cross-entropy")
    axis.grid(alpha=0.3)
    _legend(axis)


def _differences(axis: Axes, curve: Mapping[str, Any], share: bool) -> None:
    scale = 100 if share else 1
    known = [point for point in curve["points"] if point["difference"]["mean"] is not None]
    x = [point["place"] for point in known]
    mean = [scale * point["difference"]["mean"] for point in known]
    axis.axhline(0, color="black", linewidth=0.6)
    axis.plot(x, mean, "o", color="black", markersize=3)
    for place, point in zip(x, known, strict=True):
        if point["difference"]["interval_95"] is not None:
            axis.vlines(
                place, *(scale * bound for bound in point["difference"]["interval_95"]), color="black", linewidth=1
            )
    _places(axis, curve["points"])
    axis.set_title("" if curve["control"] is None else f"minus {curve['control']}", fontsize=9, loc="left")
    axis.set_ylabel("points" if share else "difference")
    axis.grid(alpha=0.3)


def _fitted(axis: Axes, curve: Mapping[str, Any]) -> None:
    """Both fits, over the number of adversarial layers, drawn at the cutoffs."""
    import numpy as np

    places = [point["place"] for point in curve["points"]]
    x = np.linspace(min(places), max(places), 200)
    k = np.interp(x, places, [point["adversarial"] for point in curve["points"]])
    decay, line = curve["fits"]["decay"], curve["fits"]["line"]
    shown = {
        "exponential": (decay["a"] * np.exp(-decay["b"] * k) + decay["c"], "--", decay["r2"]),
        "line": (line["slope"] * k + line["intercept"], ":", line["r2"]),
    }
    for name, (y, style, r2) in shown.items():
        share = "" if r2 is None else f", R² {r2:.2f}"
        axis.plot(x, y, style, color=_FIT, linewidth=1, label=f"{name}{share}", zorder=1)


def _places(axis: Axes, points: Sequence[Mapping[str, Any]]) -> None:
    axis.set_xticks([point["place"] for point in points], [point["name"] for point in points], fontsize=7)
    _upright(axis, len(points))
    axis.set_xlabel("cutoff before", fontsize=8)


def _upright(axis: Axes, count: int) -> None:
    axis.tick_params(axis="x", rotation=90 if count > _MANY else 30)


def _legend(axis: Axes) -> None:
    handles, labels = axis.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    if once:
        axis.legend(once.values(), once.keys(), fontsize=7)
