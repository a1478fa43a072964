"""The picture of accuracy under corruptions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lit_robust.callbacks.measurement import Results
from lit_robust.callbacks.run_figure import run_styles
from lit_robust.corruptions import CORRUPTIONS
from lit_robust.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COMPARED = ("benchmark", "source", "severities", "names")  # what runs must have in common
_ROOM = 1.8  # percent that a small number takes


class _Row(NamedTuple):
    """A line of the picture: what it is called, and where its figures are in the results."""

    label: str
    place: tuple[str, ...]

    @property
    def single(self) -> bool:
        """One corruption, not a mean of several."""
        return self.place[0] == "corruptions"

    def figures(self, results: Results) -> Any:  # noqa: ANN401 - JSON
        """Accuracy, interval and, of one corruption, those of the severities."""
        found: Any = results
        for key in self.place:
            found = found[key]
        return found


def accuracy_dots(results: Mapping[str, Results]) -> Figure:
    """Mean accuracy for each corruption and run with its 95 % interval, in groups below their means.

    Args:
        results: Contents of `corruptions.json` by what their runs are to be called.

    Raises:
        UserError: If the runs were measured under different corruptions.
    """
    from matplotlib.figure import Figure

    first = next(iter(results.values()))
    for key in _COMPARED:
        if any(other[key] != first[key] for other in results.values()):
            values = "; ".join(f"{run}: {other[key]}" for run, other in results.items())
            raise UserError(f"runs that were measured under different corruptions cannot be compared ({key} {values})")
    rows = _rows(first)
    figure = Figure(figsize=(7.6, (0.23 + 0.04 * min(4, len(results))) * len(rows) + 1.2), layout="constrained")
    axis = figure.add_subplot()
    for number, (run, style) in enumerate(run_styles(list(results)).items()):
        offset = (0.6 * (number + 0.5) / len(results) - 0.3) * (len(results) > 1)
        _dots(axis, rows, results[run], run, str(style["color"]), offset)
    if len(results) == 1:
        _severities(axis, rows, first, str(run_styles(list(results))[next(iter(results))]["color"]))
    _frame(axis, rows)
    own = "" if first["source"] == first["benchmark"] else " (own implementation, not CIFAR-10-C)"
    axis.set_title(f"Accuracy under common corruptions: {first['benchmark']}{own}\n{_caption(results)}", fontsize=9)
    if len(results) > 1:
        figure.legend(*axis.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=4)
    return figure


def _rows(first: Results) -> list[_Row]:
    rows = [_Row("all", ("mean",))]
    for group in first["groups"]:
        rows.append(_Row(group, ("groups", group)))
        names = [name for name in first["names"] if CORRUPTIONS[name].group == group]
        rows += [_Row(name.replace("_", " "), ("corruptions", name)) for name in names]
    return rows


def _dots(axis: Axes, rows: Sequence[_Row], results: Results, run: str, colour: str, offset: float) -> None:
    figures = [row.figures(results) for row in rows]
    at = [line + offset for line in range(len(rows))]
    low, high = ([100 * figure["interval_95"][end] for figure in figures] for end in (0, 1))
    axis.hlines(at, low, high, color=colour, linewidth=1.5)
    axis.plot([100 * figure["accuracy"] for figure in figures], at, "o", color=colour, markersize=4.5, label=run)
    axis.axvline(100 * results["clean"]["accuracy"], color=colour, linestyle="--", linewidth=1, alpha=0.8)


def _severities(axis: Axes, rows: Sequence[_Row], results: Results, colour: str) -> None:
    """A tick for each severity, with its number where there is room; the strongest come first."""
    for line, row in enumerate(rows):
        if not row.single or len(results["severities"]) < 2:
            continue
        numbered: list[float] = []
        for severity, figure in sorted(row.figures(results)["severities"].items(), reverse=True):
            at = 100 * figure["accuracy"]
            axis.plot([at], [line], "|", color=colour, markersize=6, alpha=0.5)
            if all(abs(at - other) > _ROOM for other in numbered):
                numbered.append(at)
                axis.annotate(severity, (at, line + 0.18), color=colour, fontsize=6, alpha=0.8, ha="center", va="top")


def _frame(axis: Axes, rows: Sequence[_Row]) -> None:
    axis.set_yticks(range(len(rows)), [row.label for row in rows], fontsize=8)
    for line, (text, row) in enumerate(zip(axis.get_yticklabels(), rows, strict=True)):
        text.set_fontweight("normal" if row.single else "bold")
        if not row.single:
            axis.axhspan(line - 0.5, line + 0.5, color="0.93", zorder=0)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_xlim(0, 101)
    axis.set_axisbelow(True)
    axis.grid(axis="x", alpha=0.3)
    axis.set_xlabel("accuracy in %")


def _caption(results: Mapping[str, Results]) -> str:
    severities = next(iter(results.values()))["severities"]
    counts = " and ".join(f"{n:,}" for n in sorted({int(result["n"]) for result in results.values()}))
    listed = ", ".join(map(str, severities))
    if severities == list(range(severities[0], severities[-1] + 1)) and len(severities) > 2:
        listed = f"{severities[0]} to {severities[-1]}"
    several = len(severities) > 1
    measured = f"{'mean of severities' if several else 'severity'} {listed}, N = {counts}"
    single = "; small numbers: severities" if several and len(results) == 1 else ""
    return f"{measured}; lines: 95 % intervals; dashed: clean{single}"
