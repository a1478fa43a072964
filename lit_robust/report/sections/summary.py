"""Clean and robust accuracy of all models: a column a threat model and set of images, and never two in one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from lit_robust.report.credibility import verdict
from lit_robust.report.material import Model, Test
from lit_robust.report.page import Content, Markup, Section, command, element, joined, lines, note, table
from lit_robust.report.pictures import Pictures
from lit_robust.report.wording import attack, percent

_NORMS = ("L∞", "L2", "L1", "L0")


@dataclass(frozen=True, kw_only=True)
class Column:
    """What the figures of one column have in common.

    Attributes:
        threat: The threat model, as text.
        images: The data and the shape of their images, as text.
        digest: Digest of the test images.
    """

    threat: str
    images: str
    digest: str

    @property
    def order(self) -> tuple[str, str, int, float, str]:
        """The place of the column: by images, norm and radius."""
        norm, _, eps = self.threat.partition(" ")
        place = _NORMS.index(norm) if norm in _NORMS else len(_NORMS)
        return self.images, self.digest, place, _number(eps), self.threat


Entry = tuple[Test, Mapping[str, Any], tuple[str, ...]]  # a test, its worst case, and identities of the attacks


def section(models: Sequence[Model], pictures: Pictures) -> Section:
    """The table, and the attacks behind each of its columns."""
    title = "Clean and robust accuracy"
    found = entries(models)
    if not found:
        line = command(models[0].command("linf_8.yaml"))
        body = joined([_table(models, found, {}), element("p", "No robust accuracy; it comes from ", line)])
        return Section(anchor="accuracy", title=title, body=body)
    sets = attack_sets(found)
    body = joined([_table(models, found, sets), element("h3", "Protocol"), _protocol(found, sets)])
    return Section(anchor="accuracy", title=title, body=body)


def entries(models: Sequence[Model]) -> dict[Column, dict[str, list[Entry]]]:
    """The worst cases of each column by model, those of more images first and then the lower ones."""
    found: dict[Column, dict[str, list[Entry]]] = {}
    for model in models:
        for test in model.tests:
            for threat, figure in test.results.get("worst_case", {}).items():
                column = column_of(test, threat)
                members = tuple(sorted(identity(test, name) for name in figure["attacks"]))
                found.setdefault(column, {}).setdefault(model.label, []).append((test, figure, members))
    for listed in (each for column in found.values() for each in column.values()):
        listed.sort(key=lambda entry: (-entry[1]["n"], entry[1]["accuracy"]))
    return {column: found[column] for column in sorted(found, key=lambda column: column.order)}


def column_of(test: Test, threat: str) -> Column:
    """The column of a threat model in a test."""
    return Column(threat=threat, images=test.images, digest=str(test.about("images") or ""))


def identity(test: Test, name: str) -> str:
    """What makes an attack of a test the same as one of another test: how it searched, not what it is called."""
    return json.dumps(test.results["attacks"][name].get("attack", name), sort_keys=True)


def attack_sets(found: Mapping[Column, Mapping[str, Sequence[Entry]]]) -> dict[Column, dict[tuple[str, ...], str]]:
    """A letter for each set of attacks, in columns that have several."""
    letters = {}
    for column, by_model in found.items():
        sets = list(dict.fromkeys(entry[2] for listed in by_model.values() for entry in listed))
        letters[column] = {each: _letter(i) if len(sets) > 1 else "" for i, each in enumerate(sets)}
    return letters


def named_column(column: Column, columns: Sequence[Column]) -> str:
    """What a column is called, with the images where the columns are not all of the same ones."""
    several = len({(each.images, each.digest) for each in columns}) > 1
    return f"{column.threat}{f' on {column.images}' if several else ''}"


def heading(column: Column, columns: Sequence[Column]) -> Markup:
    """The same in two lines."""
    threat, _, images = named_column(column, columns).partition(" on ")
    return lines(threat, element("small", f"on {images}") if images else None)


def _table(
    models: Sequence[Model],
    found: Mapping[Column, Mapping[str, Sequence[Entry]]],
    sets: Mapping[Column, Mapping[tuple[str, ...], str]],
) -> Markup:
    columns = list(found)
    rows: list[list[Content]] = []
    for model in models:
        row: list[Content] = [model.label, _clean(model)]
        for column in columns:
            shown = [_cell(model, entry, sets[column][entry[2]]) for entry in found[column].get(model.label, [])]
            row.append(lines(*shown) if shown else element("small", "not measured"))
        rows.append(row)
    return table(["model", "clean", *(heading(column, columns) for column in columns)], rows)


def _cell(model: Model, entry: Entry, letter: str) -> Markup:
    test, figure, _ = entry
    where = f"{test.folder.name}{f', attack set {letter}' if letter else ''}"
    return percent(figure, at_most=True, beside=lines(verdict(model), element("small", where)))


def _clean(model: Model) -> Markup:
    """Clean accuracy on each set of images, from the test of most of them."""
    best: dict[str, Test] = {}
    for test in model.tests:
        n = test.results.get("clean", {}).get("n", 0)
        if n and (test.images not in best or n > best[test.images].results["clean"]["n"]):
            best[test.images] = test
    several = len(best) > 1
    cells = [
        percent(test.results["clean"], at_most=False, beside=element("small", f"on {images}") if several else None)
        for images, test in best.items()
    ]
    return lines(*cells) if cells else element("small", "not measured")


def _protocol(
    found: Mapping[Column, Mapping[str, Sequence[Entry]]], sets: Mapping[Column, Mapping[tuple[str, ...], str]]
) -> Markup:
    """The attacks of each set, and with which seed, weights and device each figure was measured."""
    items = []
    for column, by_model in found.items():
        parts: list[Content] = []
        for members, letter in sets[column].items():
            having = [(label, entry) for label, each in by_model.items() for entry in each if entry[2] == members]
            test, figure, _ = having[0][1]
            how = {name: attack(test.results["attacks"][name].get("attack", "")) for name in figure["attacks"]}
            named = "; ".join(f"{name}: {text}" for name, text in how.items())
            parts.append(
                element(
                    "li",
                    element("strong", f"attack set {letter}: ") if letter else None,
                    f"{'the worst case of ' if len(how) > 1 else ''}{named}. ",
                    element("small", "; ".join(_measured(label, entry) for label, entry in having)),
                )
            )
        unlike = note("Different attack sets in one column did not search equally hard.") if len(parts) > 1 else None
        items.append(element("li", element("strong", named_column(column, list(found))), element("ul", parts), unlike))
    return element("ul", items)


def _measured(label: str, entry: Entry) -> str:
    test, protocol = entry[0], entry[0].results.get("protocol", {})
    checkpoint = str(test.about("checkpoint") or "no checkpoint").rpartition("/")[2]
    draws = f", {protocol['draws']} draws" if "draws" in protocol else ""
    how = f"seed {protocol.get('seed')}{draws}, {protocol.get('dtype')} on {protocol.get('device')}"
    cascade = ", in a cascade" if protocol.get("cascade") else ""
    return f"{label} ({test.folder.name}): {checkpoint}, {how}{cascade}"


def _letter(number: int) -> str:
    return ascii_uppercase[number] if number < len(ascii_uppercase) else str(number + 1)


def _number(eps: str) -> float:
    numerator, _, denominator = eps.partition("/")
    try:
        return float(numerator) / float(denominator or 1)
    except (ValueError, ZeroDivisionError):
        return 0.0
