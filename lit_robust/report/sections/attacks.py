"""Accuracy under each attack by itself, and under random noise, which is no adversary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lit_robust.report.credibility import verdict
from lit_robust.report.material import Model, Test
from lit_robust.report.page import Content, Markup, Section, command, element, joined, lines, note, table
from lit_robust.report.pictures import Pictures
from lit_robust.report.sections.summary import Column, column_of, heading, identity
from lit_robust.report.wording import attack, percent

Rows = dict[tuple[str, str], dict[str, tuple[Test, Mapping[str, Any]]]]  # by attack, by model
Found = dict[Column, Rows]


def section(models: Sequence[Model], pictures: Pictures) -> Section | None:
    """A table a threat model: a row an attack, a column a model; None where one attack is all there is."""
    title = "Each attack by itself"
    found = _figures(models, "adversary")
    if not found:
        body = joined(["none; ", command(models[0].command("linf_8.yaml"))])
        return Section(anchor="attacks", title=title, body=body, empty=True)
    columns = sorted((column for column in found if len(found[column]) > 1), key=lambda column: column.order)
    if not columns:  # the worst case of one attack is that attack
        return None
    parts = [[element("h3", heading(column, columns)), _table(models, found[column])] for column in columns]
    cascade = any(test.results.get("protocol", {}).get("cascade") for model in models for test in model.tests)
    why = note("In a cascade an attack's figure is of what it and those before it broke.") if cascade else None
    return Section(anchor="attacks", title=title, body=joined([*parts, why]))


def noise(models: Sequence[Model], pictures: Pictures) -> Section:
    """A table of accuracies under random noise: a row a noise, a column a model."""
    title = "Random noise as an attack"
    found = _figures(models, "noise")
    if not found:
        body = joined(["none; ", command(models[0].command("gaussian_noise.yaml"))])
        return Section(anchor="random-noise", title=title, body=body, empty=True)
    columns = sorted(found, key=lambda column: column.order)
    several = len(columns) > 1
    parts = [
        [element("h3", f"on {column.images}") if several else None, _table(models, found[column])] for column in columns
    ]
    why = note("Noise does not search: these accuracies say nothing about an adversary.")
    return Section(anchor="random-noise", title=title, body=joined([*parts, why]))


def _figures(models: Sequence[Model], kind: str) -> Found:
    found: Found = {}
    for model in models:
        for test in model.tests:
            for name, figure in test.results.get("attacks", {}).items():
                if figure["kind"] == kind and "accuracy" in figure:
                    column = column_of(test, figure["threat_model"])
                    row = found.setdefault(column, {}).setdefault((_row(test, name), identity(test, name)), {})
                    before = row.get(model.label)
                    if before is None or before[1]["n"] < figure["n"]:
                        row[model.label] = test, figure
    return found


def _row(test: Test, name: str) -> str:
    return f"{name} (in a cascade)" if test.results.get("protocol", {}).get("cascade") else name


def _table(
    models: Sequence[Model], rows: Mapping[tuple[str, str], Mapping[str, tuple[Test, Mapping[str, Any]]]]
) -> Markup:
    having = [model for model in models if any(model.label in row for row in rows.values())]
    lines_: list[list[Content]] = []
    for (name, _), row in rows.items():
        figures = next(iter(row.values()))[1]
        cells: list[Content] = [_cell(model, row[model.label]) if model.label in row else "" for model in having]
        lines_.append([name, *cells, attack(figures.get("attack", ""))])
    return table(["", *(model.label for model in having), "how"], lines_, text=[len(having) + 1])


def _cell(model: Model, found: tuple[Test, Mapping[str, Any]]) -> Markup:
    test, figure = found
    adversary = figure["kind"] == "adversary"
    where = element("small", test.folder.name)
    beside = lines(verdict(model), where) if adversary else where
    return percent(figure, at_most=adversary, beside=beside)
