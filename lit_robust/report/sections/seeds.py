"""Runs of one name: the mean over their seeds with an interval, and how two names differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from lit_robust.evaluation.paired import mean_difference
from lit_robust.report.credibility import verdict
from lit_robust.report.material import Model
from lit_robust.report.page import Content, Markup, Section, element, joined, lines, note, table
from lit_robust.report.pictures import Pictures
from lit_robust.report.sections.summary import identity

_METHOD = (
    "Means over runs of one name, with Student's 95 % interval over these runs: it tells how much training itself "
    "varies, which no interval over images does. Differences of two names are Welch's, with a 95 % interval."
)
ByName = dict[str, list[float]]  # accuracies of the runs of each name


def section(models: Sequence[Model], pictures: Pictures) -> Section:
    """A row a figure and a column a name, where a name has two runs or more."""
    title = "Over seeds"
    several = [row for row in _figures(models) if any(len(values) > 1 for values in row[1].values())]
    if not several:
        body = joined(["no two runs of one name with the same test; train some with other --seed_everything"])
        return Section(anchor="seeds", title=title, body=body, empty=True)
    names = list(dict.fromkeys(name for _, by_name in several for name in by_name))
    rows: list[list[Content]] = []
    for heading, by_name in several:
        adversary = not heading.startswith("clean,")
        cells = [_mean(models, name, by_name.get(name, []), adversary=adversary) for name in names]
        rows.append([heading, *cells, lines(*_differences(by_name))])
    seeds = _seeds(models)
    parts = [note(_METHOD), table(["", *names, "differences"], rows), note(seeds) if seeds else None]
    return Section(anchor="seeds", title=title, body=joined(parts))


def _figures(models: Sequence[Model]) -> list[tuple[str, ByName]]:
    """Accuracies of each test and threat model, where the images and the attacks are the same."""
    found: dict[tuple[Any, ...], ByName] = {}
    once = list({model.run: model for model in reversed(models)}.values())[::-1]  # weights of a run are no repetitions
    for model in once:
        own: dict[tuple[Any, ...], float] = {}  # clean images of several tests count once
        for test in model.tests:
            images = test.images, test.about("images")
            if "clean" in test.results:
                figure = test.results["clean"]
                own[("clean", *images, figure["n"])] = figure["accuracy"]
            for threat, figure in test.results.get("worst_case", {}).items():
                members = tuple(sorted(identity(test, name) for name in figure["attacks"]))
                own[(f"{threat} ({test.title})", *images, figure["n"], members)] = figure["accuracy"]
        for key, accuracy in own.items():
            found.setdefault(key, {}).setdefault(model.name, []).append(accuracy)
    ordered = sorted(found.items(), key=lambda item: (item[0][0] != "clean", *map(str, item[0])))
    return [(f"{key[0]}, {key[1]}, N = {key[3]:,}", by_name) for key, by_name in ordered]


def _mean(models: Sequence[Model], name: str, values: Sequence[float], *, adversary: bool) -> Markup:
    if not values:
        return element("small", "not measured")
    over = np.asarray(values)
    gain = mean_difference(np.zeros(len(over)), over)
    shown = f"{'at most ' if adversary else ''}{100 * float(over.mean()):.1f} %"
    span = "one run" if gain.interval is None else f"95 %: {_span(gain.interval)}, {gain.n} runs"
    judged = dict.fromkeys(verdict(model) for model in models if model.name == name) if adversary else {}
    return lines(element("strong", shown), element("small", span), *judged)


def _differences(by_name: Mapping[str, Sequence[float]]) -> list[str]:
    """The difference of each two names with two runs or more."""
    from scipy.stats import ttest_ind

    known = {name: np.asarray(values) for name, values in by_name.items() if len(values) > 1}
    found = []
    for one, other in combinations(known, 2):
        gain = 100 * float(known[other].mean() - known[one].mean())
        if known[one].std() + known[other].std() == 0:
            found.append(f"{other} minus {one}: {gain:+.1f}, no spread")
            continue
        span = ttest_ind(known[other], known[one], equal_var=False).confidence_interval()
        found.append(f"{other} minus {one}: {gain:+.1f} ({100 * span.low:+.1f} to {100 * span.high:+.1f})")
    return found


def _span(interval: tuple[float, float]) -> str:
    low, high = (100 * min(1.0, max(0.0, limit)) for limit in interval)
    return f"{low:.1f} to {high:.1f}"


def _seeds(models: Sequence[Model]) -> str:
    """Which runs of one name share their seed, so that they are no repetitions."""
    seen: dict[tuple[str, object], list[str]] = {}
    for model in models:
        seen.setdefault((model.name, model.config.get("seed_everything")), []).append(model.label)
    same = [f"{' and '.join(labels)} have the seed {seed}" for (_, seed), labels in seen.items() if len(labels) > 1]
    return f"Not independent: {'; '.join(same)}." if same else ""
