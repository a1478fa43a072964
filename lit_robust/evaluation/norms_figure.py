"""Minimal norms of one or several runs, as in Fig. 5.8 of the dissertation, with robust accuracy at every radius."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING, Any

from lit_robust.evaluation.minimum_norms import OVER
from lit_robust.threat import NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NORMS = ("l0", "l1", "l2", "linf")  # from left to right
# Okabe and Ito (2008), which colour-blind people tell apart, with a grey for the run that the others compare with.
_ALONE, _COLOURS = "#0072B2", ("#7F7F7F", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_DASHES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class _Series:
    """What one attack in one norm measured on one run, and how it is drawn."""

    label: str
    norms: Mapping[str, Any]  # `minimum_norm` of `results.json`
    colour: str
    dash: str


def norms_figure(results: Mapping[str, Mapping[str, Any]]) -> Figure:
    """A column a norm: mean minimal norms with their intervals above, robust accuracy against radius below.

    Args:
        results: What `results.json` holds, by the label of each run; the first of several is drawn in grey. A run with
            several minimum-norm attacks in one norm has a series for each.

    Returns:
        The figure; without a minimum-norm attack it says so.
    """
    from matplotlib.figure import Figure

    columns = _columns(results)
    figure = Figure(figsize=(max(4.0, 2.5 * len(columns) + 0.6), 5.2), layout="constrained")
    if not columns:
        figure.suptitle("no minimum-norm attack", fontsize=9)
        return figure
    axes = figure.subplots(2, len(columns), squeeze=False)
    for (norm, series), above, below in zip(columns.items(), axes[0], axes[1], strict=True):
        _bars(above, series)
        _curves(below, series)
        above.set_title(NAMES[norm], fontsize=11)
        below.set_xlabel(f"{NAMES[norm]} radius", fontsize=9)
    axes[0][0].set_ylabel("mean norm, at most", fontsize=9)
    axes[1][0].set_ylabel("robust accuracy in %, at most", fontsize=9)
    # One patch a label: not every run has been measured in every norm.
    patches = {
        s.label: bar
        for (_, series), axis in zip(columns.items(), axes[0], strict=True)
        for s, bar in zip(series, axis.patches, strict=True)
    }
    style: dict[str, Any] = {"loc": "outside upper center", "ncols": len(columns), "fontsize": 9, "frameon": False}
    figure.legend(patches.values(), patches, **style)
    caption = f"Means are over {OVER}, with 95 % intervals."
    figure.supxlabel(fill(caption, 40 * len(columns) + 20), fontsize=7)
    return figure


def _columns(results: Mapping[str, Mapping[str, Any]]) -> dict[str, list[_Series]]:
    """The series of each norm that was measured."""
    found: dict[str, list[tuple[str, Mapping[str, Any]]]] = {norm: [] for norm in _NORMS}
    for run, result in results.items():
        entries = [(n, f["minimum_norm"]) for n, f in result.get("attacks", {}).items() if f.get("minimum_norm")]
        for norm, listed in found.items():
            mine = [(name, entry) for name, entry in entries if entry["norm"] == norm]
            listed += [(f"{run}, {name}" if len(mine) > 1 else run, entry) for name, entry in mine]
    labels = list(dict.fromkeys(label for listed in found.values() for label, _ in listed))
    return {
        norm: [_Series(label, entry, *_style(labels.index(label), len(labels))) for label, entry in listed]
        for norm, listed in found.items()
        if listed
    }


def _style(number: int, of: int) -> tuple[str, str]:
    colour = _ALONE if of == 1 else _COLOURS[number % len(_COLOURS)]
    return colour, _DASHES[number // len(_COLOURS) % len(_DASHES)]


def _bars(axis: Axes, series: list[_Series]) -> None:
    """A bar a series, with its number and, where some images have no adversarial, for how many it stands."""
    top = max([1e-12, *(entry.norms["mean"] or 0.0 for entry in series)])
    for i, entry in enumerate(series):
        mean, interval = entry.norms["mean"], entry.norms["interval_95"]
        axis.bar([i], [mean or 0.0], 0.7, color=entry.colour, label=entry.label)
        if mean is not None and interval is not None:
            ends = [[mean - interval[0]], [interval[1] - mean]]
            axis.errorbar([i], [mean], yerr=ends, color="black", capsize=3, linewidth=1)
        text = "none found" if mean is None else f"{mean:.3g}"
        if mean is not None and entry.norms["found"] < entry.norms["n"]:
            text += f"\n{entry.norms['found']:,} of {entry.norms['n']:,}"
        highest = (mean or 0.0) if interval is None else interval[1]
        axis.annotate(text, (i, highest), (0, 3), textcoords="offset points", ha="center", va="bottom", fontsize=8)
        top = max(top, highest)
    axis.set_ylim(0, 1.25 * top)
    margin = 1.2 if len(series) == 1 else 0.8
    axis.set_xlim(-margin, len(series) - 1 + margin)
    axis.set_xticks([])
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def _curves(axis: Axes, series: list[_Series]) -> None:
    """Steps that fall where a sample's nearest adversarial lies, all as long as the longest."""
    end = 1.03 * max([1e-12, *(entry.norms["curve"]["radius"][-1] for entry in series)])
    for entry in series:
        radius = [*entry.norms["curve"]["radius"], end]
        accuracy = [100 * value for value in entry.norms["curve"]["accuracy"]]
        accuracy.append(accuracy[-1])
        axis.step(radius, accuracy, where="post", color=entry.colour, linestyle=entry.dash, label=entry.label)
    axis.set_ylim(0, 100)
    axis.set_xlim(0, end)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
