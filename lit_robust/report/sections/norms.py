"""How far the nearest adversarials of the models are, and robust accuracy at every radius."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lit_robust.evaluation.minimum_norms import OVER
from lit_robust.evaluation.norms_figure import norms_figure
from lit_robust.report.credibility import verdict, verdicts
from lit_robust.report.material import Model, Test
from lit_robust.report.page import Content, Markup, Section, command, element, joined, lines, note, table
from lit_robust.report.pictures import Pictures
from lit_robust.report.wording import attack
from lit_robust.threat import NAMES

Measured = dict[str, dict[str, Mapping[str, Any]]]  # figures of minimum-norm attacks, by model and by name


def section(models: Sequence[Model], pictures: Pictures) -> Section:
    """A figure and a table for each set of images."""
    title = "Minimum norms"
    groups = _groups(models)
    if not groups:
        body = command(models[0].command("fmn.yaml"))
        return Section(anchor="norms", title=title, body=body, empty=True)
    parts: list[Content] = [note(f"Means are over {OVER}; medians over all that are classified correctly.")]
    for (images, _, n), measured in groups.items():
        having = [model for model in models if model.label in measured]
        where = f"{images}, N = {n:,}"
        figure = norms_figure({label: {"attacks": figures} for label, figures in measured.items()})
        described = f"Minimum norms of {', '.join(measured)}. {_told(measured)}"
        parts += [
            pictures.drawn("minimum_norms", figure, described, f"minimum norms, on {where}"),
            verdicts(having),
            _table(having, measured),
        ]
    without = [model for model in models if all(model.label not in measured for measured in groups.values())]
    if without:
        labels = ", ".join(model.label for model in without)
        parts.append(note(f"Not measured for {labels}: ", command(without[0].command("fmn.yaml"))))
    return Section(anchor="norms", title=title, body=joined(parts))


def _groups(models: Sequence[Model]) -> dict[tuple[str, str, int], Measured]:
    """Minimum-norm figures by set of images; of two tests with an attack of one name, the one of more images."""
    groups: dict[tuple[str, str, int], Measured] = {}
    for model in models:
        for test in model.tests:
            for name, figure in test.results.get("attacks", {}).items():
                if figure.get("minimum_norm"):
                    key = test.images, str(test.about("images")), _tested(test)
                    groups.setdefault(key, {}).setdefault(model.label, {})[name] = figure
    return groups


def _tested(test: Test) -> int:
    n: int = test.results["clean"]["n"]
    return n


def _table(models: Sequence[Model], measured: Measured) -> Markup:
    rows: list[list[Content]] = []
    for name in dict.fromkeys(name for figures in measured.values() for name in figures):
        of = [figures[name] for figures in measured.values() if name in figures]
        norm = NAMES[of[0]["minimum_norm"]["norm"]]
        cells = [_cell(model, measured[model.label].get(name), norm) for model in models]
        how = list(dict.fromkeys(attack(figure.get("attack", "")) for figure in of))
        rows.append([f"{name}, mean {norm} norm", *cells, "; ".join(how)])
    return table(["", *(model.label for model in models), "how"], rows, text=[len(models) + 1])


def _cell(model: Model, figure: Mapping[str, Any] | None, norm: str) -> Markup:
    if figure is None or NAMES[figure["minimum_norm"]["norm"]] != norm:
        return element("small", "not measured")
    norms = figure["minimum_norm"]
    mean, median = ("none" if norms[key] is None else f"{norms[key]:.3g}" for key in ("mean", "median"))
    span = None if norms["interval_95"] is None else "95 %: {:.3g} to {:.3g}".format(*norms["interval_95"])
    return lines(
        element("strong", f"at most {mean}"),
        element("small", span) if span else None,
        element("small", f"median {median}, found {norms['found']:,} of {norms['n']:,}"),
        verdict(model),
    )


def _told(measured: Measured) -> str:
    return "; ".join(
        f"{label}, {name}: mean at most {figure['minimum_norm']['mean']}"
        for label, figures in measured.items()
        for name, figure in figures.items()
    )
