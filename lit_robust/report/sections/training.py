"""How training went: what `metrics.csv` of each run holds, by epoch."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from lit_robust.callbacks.run_figure import run_styles
from lit_robust.loggers import METRICS
from lit_robust.report.credibility import verdicts
from lit_robust.report.material import Model
from lit_robust.report.page import Section, command, joined
from lit_robust.report.pictures import Pictures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PANELS = {
    "train/loss": "training loss",
    "val/loss": "validation loss",
    "val/acc": "validation accuracy in %",
    "val/robust": "the same under attack, in %, at most",
}
_SHARES = ("val/acc", "val/robust")
Series = dict[int, float]  # the mean of each epoch


def section(models: Sequence[Model], pictures: Pictures) -> Section:
    """A panel a quantity, with a line a run."""
    once = list({model.run: model for model in reversed(models)}.values())[::-1]
    curves = {model.label: read(model.run / METRICS) for model in once}
    known = {label: found for label, found in curves.items() if found}
    if not known:
        body = joined(["no ", METRICS, " in the run; ", command("python -m lit_robust fit --config quickstart.yaml")])
        return Section(anchor="training", title="Training", body=body, empty=True)
    ends = "; ".join(f"{label} ends with {_last(found)}" for label, found in known.items())
    described = f"Training curves by epoch. {ends}"
    robust = [model for model in once if "val/robust" in known.get(model.label, {})]
    body = joined(
        [
            pictures.drawn("training", figure(known), described, "means of each epoch, as the run logged them"),
            verdicts(robust) if robust else None,
        ]
    )
    return Section(anchor="training", title="Training", body=body)


def read(path: Path) -> dict[str, Series]:
    """The quantities that are drawn, as the mean of each epoch; empty without a file or a row.

    Args:
        path: `metrics.csv`.
    """
    values: dict[str, dict[int, list[float]]] = {}
    if path.is_file():
        with path.open(newline="", errors="replace") as file:
            for row in csv.DictReader(file):
                for key in _PANELS:
                    number, epoch = _number(row.get(key)), _number(row.get("epoch"))
                    if number is not None and epoch is not None:
                        values.setdefault(key, {}).setdefault(int(epoch), []).append(number)
    return {key: {e: fmean(numbers) for e, numbers in sorted(by.items())} for key, by in values.items()}


def figure(curves: Mapping[str, Mapping[str, Series]]) -> Figure:
    """Draws the quantities that any run logged.

    Args:
        curves: Quantities of each run, by its label.
    """
    from matplotlib.figure import Figure

    panels = [key for key in _PANELS if any(key in found for found in curves.values())]
    drawn = Figure(figsize=(max(4.5, 3.1 * len(panels)), 3.0), layout="constrained")
    styles = run_styles(list(curves))
    for axis, key in zip(drawn.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for label, found in curves.items():
            if key in found:
                scale = 100 if key in _SHARES else 1
                values = [scale * value for value in found[key].values()]
                marker = "o" if len(values) == 1 else None
                axis.plot([e + 1 for e in found[key]], values, color=styles[label]["color"], label=label, marker=marker)
        axis.set_title(_PANELS[key], fontsize=9)
        axis.set_xlabel("epoch", fontsize=9)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
    handles = {text: line for axis in drawn.axes for line, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    drawn.legend(handles.values(), handles, loc="outside upper center", ncols=min(4, len(handles)), fontsize=8)
    return drawn


def _last(found: Mapping[str, Series]) -> str:
    return ", ".join(f"{key} {list(series.values())[-1]:.3g}" for key, series in found.items())


def _number(text: object) -> float | None:
    try:
        number = float(str(text))
    except ValueError:
        return None
    return number if isfinite(number) else None
