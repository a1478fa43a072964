"""How the models after the first differ from it on the same images, image by image."""

from __future__ import annotations

from collections.abc import Sequence

from lit_robust.errors import UserError
from lit_robust.evaluation.verdict import CLEAN
from lit_robust.report.credibility import verdict
from lit_robust.report.material import Model, Test
from lit_robust.report.page import Content, Markup, Section, element, joined, lines, note, table
from lit_robust.report.pairs import Pair, accuracies, check, norms
from lit_robust.report.pictures import Pictures
from lit_robust.report.sections.summary import identity
from lit_robust.report.wording import p_value, signed
from lit_robust.threat import NAMES

_METHOD = (
    "Each row is of the same images and the same attack with the same settings in both models. Of accuracies: the "
    "difference in percentage points with the score interval of paired proportions (Tango, 1998) at 95 %, how many "
    "images only one of the two gets right, and McNemar's exact test. Of mean norms: Student's interval of the mean "
    "difference over images with an adversarial in both. Each p-value is of its row alone."
)
_WORST = "worst case,"
_HEADINGS = ("second minus first", "right only in first / second", "McNemar, exact")


def section(models: Sequence[Model], pictures: Pictures) -> Section:
    """A table for each model after the first."""
    title = "Paired differences"
    first, *others = models
    if not others:
        body = joined(["one model alone; name several runs"])
        return Section(anchor="differences", title=title, body=body, empty=True)
    parts = [_against(first, other) for other in others]
    if not any(found for found, _ in parts):
        why = " ".join(dict.fromkeys(reason for _, reasons in parts for reason in reasons)) or "no test in common"
        way = f"python -m lit_robust compare --config linf_8.yaml --run {first.run} --run {others[0].run}"
        body = joined([f"{why}; ", element("code", way)])
        return Section(anchor="differences", title=title, body=body, empty=True)
    shown = [
        [element("h3", f"{other.label} against {first.label}"), *found, [note(each) for each in reasons]]
        for other, (found, reasons) in zip(others, parts, strict=True)
    ]
    return Section(anchor="differences", title=title, body=joined([note(_METHOD), *shown]))


def _against(first: Model, other: Model) -> tuple[list[Markup], list[str]]:
    """Tables of what two models have in common, and why other tests could not be paired."""
    found, reasons = dict[str, Pair](), list[str]()
    for one in first.tests:
        for another in other.tests:
            names = _alike(one, another)
            if not {CLEAN} <= set(one.results) & set(another.results) or not (names or one.title == another.title):
                continue
            where = f"{one.folder.name} and {another.folder.name}"
            try:
                listed = _rows(one, another, names)
            except UserError as error:
                reasons.append(f"{where}: {error}.")
                continue
            for name, pair in listed.items():
                if name != CLEAN:
                    found[f"{name}\n{where}"] = pair
                elif name not in found or pair.n > found[name].n:  # the same images count once
                    found = {name: pair, **{key: kept for key, kept in found.items() if key != name}}
    if not found and not reasons:
        reasons.append(f"{first.label} and {other.label} have no test with the same attack on the same images")
    rows = [_line(name, pair, first, other) for name, pair in found.items()]
    headings = ["", first.label, other.label, *_HEADINGS]
    return [table(headings, rows)] if rows else [], reasons


def _alike(one: Test, another: Test) -> list[str]:
    """Attacks of one name that searched alike: settings, seed, and what ran before them in a cascade."""
    attacks, others = (test.results.get("attacks", {}) for test in (one, another))
    kept = []
    for name in attacks:
        same = name in others and identity(one, name) == identity(another, name)
        if same and attacks[name].get("seed") == others[name].get("seed") and _before(one) == _before(another):
            kept.append(name)
    return kept


def _before(test: Test) -> list[str]:
    """All attacks of a cascade, in order; nothing outside one."""
    cascade = test.results.get("protocol", {}).get("cascade")
    return [identity(test, name) for name in test.results["attacks"]] if cascade else []


def _rows(one: Test, another: Test, names: Sequence[str]) -> dict[str, Pair]:
    """The pairs of two tests, of the attacks that they have in common alone.

    Raises:
        UserError: If they are of other images, or their rows cannot be read.
    """
    if one.images != another.images or one.about("images") != another.about("images"):
        raise UserError(f"they are of other images ({one.images} and {another.images}) and cannot be paired")
    samples = one.samples(), another.samples()
    check(*samples)
    attacks, found = one.results["attacks"], {CLEAN: accuracies(*samples, [CLEAN])}
    for name in names:
        figures = [test.results["attacks"][name] for test in (one, another)]
        if all("accuracy" in each for each in figures):
            noise = attacks[name]["kind"] == "noise"
            title = f"{name} (noise)" if noise else f"{name}, {attacks[name]['threat_model']}"
            found[title] = accuracies(*samples, [name])
        if all(each.get("minimum_norm") for each in figures):
            found[f"{name}, mean {NAMES[figures[0]['minimum_norm']['norm']]} norm"] = norms(*samples, name)
    worst = another.results.get("worst_case", {})
    for threat, figure in one.results.get("worst_case", {}).items():
        members = set(figure["attacks"])
        if len(members) > 1 and members <= set(names) and members == set(worst.get(threat, {}).get("attacks", ())):
            found[f"{_WORST} {threat}"] = accuracies(*samples, figure["attacks"])
    return found


def _line(name: str, pair: Pair, first: Model, other: Model) -> list[Content]:
    name, _, where = name.partition("\n")
    share, attacked = not name.endswith(" norm"), name != CLEAN and not name.endswith(" (noise)")
    span = None if pair.interval is None else " to ".join(signed(limit, share=share) for limit in pair.interval)
    only = "" if pair.counts is None else f"{pair.counts.only_first:,} / {pair.counts.only_second:,}"
    return [
        lines(name, element("small", where) if where else None),
        _value(pair.first, first, share=share, attacked=attacked),
        _value(pair.other, other, share=share, attacked=attacked),
        lines(element("strong", signed(pair.difference, share=share)), element("small", span) if span else None),
        lines(only, element("small", f"{pair.n:,} pairs")),
        p_value(pair.p),
    ]


def _value(value: float | None, model: Model, *, share: bool, attacked: bool) -> Markup:
    figure = "none" if value is None else f"{100 * value:.1f} %" if share else f"{value:.3g}"
    return lines(f"{'at most ' if attacked else ''}{figure}", verdict(model) if attacked else None)
