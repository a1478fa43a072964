"""The figure of one audit or several: one axis a check."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lit_robust.callbacks.measurement import Results
from lit_robust.callbacks.run_figure import caption, run_styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 4
_COLOURS = {"pass": "#006B4E", "warn": "#8A5A00", "fail": "#B03A00", "skipped": "#595959"}
_LINES = ("-", "--", ":", "-.")


def draw(results: Mapping[str, Results]) -> Figure:
    """Draws the pictures of all checks; several audits share each axis.

    Args:
        results: Contents of `audit.json` by what each is to be called.
    """
    from matplotlib.figure import Figure

    checks = list(dict.fromkeys(f["check"] for result in results.values() for f in result["findings"]))
    rows = -(-len(checks) // _COLUMNS)
    figure = Figure(figsize=(3.6 * _COLUMNS, 2.9 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, _COLUMNS, squeeze=False).flatten()
    for axis, check in zip(axes, checks, strict=False):
        _draw_check(axis, check, {run: _finding(result, check) for run, result in results.items()})
    for axis in axes[len(checks) :]:
        axis.set_axis_off()
    verdicts = ", ".join(f"{run}: {result['verdict']}" for run, result in results.items())
    figure.suptitle(f"{verdicts}\n{caption(results, {'ball': 'threat_model'})}", fontsize=10)
    return figure


def _finding(result: Results, check: str) -> dict[str, Any] | None:
    return next((finding for finding in result["findings"] if finding["check"] == check), None)


def _draw_check(axis: Axes, check: str, findings: Mapping[str, dict[str, Any] | None]) -> None:
    there = {run: finding for run, finding in findings.items() if finding is not None}
    verdicts = [finding["verdict"] for finding in there.values()]
    shown = verdicts[0] if len(set(verdicts)) == 1 else " / ".join(verdicts)
    axis.set_title(f"{check}: {shown}", fontsize=9, color=_COLOURS.get(shown, "black"))
    axis.tick_params(labelsize=7)
    pictures = {run: finding["picture"] for run, finding in there.items() if finding["picture"]}
    if not pictures:
        axis.text(0.5, 0.5, next(iter(there.values()))["figure"], ha="center", va="center", fontsize=8, wrap=True)
        axis.set_axis_off()
        axis.set_title(f"{check}: {shown}", fontsize=9, color=_COLOURS.get(shown, "black"))
        return
    first = next(iter(pictures.values()))
    (_bars if isinstance(first["x"][0], str) else _curves)(axis, pictures, list(findings))
    axis.set_xlabel(first["x_label"], fontsize=8)
    axis.set_ylabel(first["y_label"], fontsize=8)
    if first["y_label"] in ("accuracy", "share"):
        axis.set_ylim(0, 1.05)
    axis.grid(alpha=0.3, axis="both" if not isinstance(first["x"][0], str) else "y")
    axis.set_axisbelow(True)


def _curves(axis: Axes, pictures: Mapping[str, dict[str, Any]], runs: list[str]) -> None:
    styles = run_styles(runs)
    for run, picture in pictures.items():
        for (name, heights), line in zip(picture["series"].items(), _LINES, strict=False):
            label = name if len(runs) == 1 else f"{run}, {name}" if len(picture["series"]) > 1 else run
            axis.plot(picture["x"], heights, "o", ls=line, color=styles[run]["color"], markersize=3, label=label)
    if len(runs) > 1 or any(len(picture["series"]) > 1 for picture in pictures.values()):
        axis.legend(fontsize=6)


def _bars(axis: Axes, pictures: Mapping[str, dict[str, Any]], runs: list[str]) -> None:
    names = list(dict.fromkeys(name for picture in pictures.values() for name in picture["x"]))
    width = 0.8 / len(pictures)
    for i, (run, picture) in enumerate(pictures.items()):
        at = [names.index(name) + (i - (len(pictures) - 1) / 2) * width for name in picture["x"]]
        (heights,) = picture["series"].values()
        style = {"edgecolor": "white", "linewidth": 0.4, **run_styles(runs)[run]}
        axis.bar(at, heights, width, label=run, **style)
        if len(pictures) == 1 and len(names) <= 6:
            for x, height in zip(at, heights, strict=True):
                axis.text(x, height, f"{height:.3g}", ha="center", va="bottom", fontsize=7)
    axis.set_xticks(range(len(names)), names, fontsize=7, rotation=30 if len(names) > 3 else 0)
    axis.margins(x=0.05)
    if len(pictures) > 1:
        axis.legend(fontsize=6)
