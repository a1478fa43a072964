"""The rows of a comparison, each with every run's figure and its paired difference to the first run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import isclose
from typing import Any

import numpy as np

from lit_robust.callbacks.measurement import TABLE
from lit_robust.comparison.testing import FinishedTest
from lit_robust.errors import UserError
from lit_robust.evaluation.interval import wilson
from lit_robust.evaluation.paired import Column, mcnemar, mean_difference, paired_counts, tango
from lit_robust.evaluation.summary import strongest
from lit_robust.evaluation.verdict import CLEAN
from lit_robust.threat import NAMES

Row = dict[str, Any]
ACCURACY, NORM, MEASURED = "accuracy", "mean norm", "measured"  # what a row's values are
AT_MOST = "at most"


def rows(tests: Sequence[FinishedTest]) -> list[Row]:
    """The rows, as plain JSON.

    A row has `name`, `quantity` (`accuracy`, `mean norm` or `measured`), `bound` ("at most" where an attack found the
    values), `values` by label and, for every run after the first, `differences` by label: an accuracy's with the four
    counts of pairs, Tango's interval and McNemar's exact p-value, a mean norm's with Student's interval.

    Args:
        tests: The tests, the first being what the others are compared with.

    Raises:
        UserError: If two tests were not of the same images, or a test's files contradict each other.
    """
    _check_pairs(tests)
    first = tests[0].results
    found = [_accuracy(CLEAN, tests, [CLEAN], [test.results[CLEAN] for test in tests])]
    for name, figure in first["attacks"].items():
        if all(name in test.results["attacks"] for test in tests):
            found += _attack(name, figure, tests)
    for threat, figure in first["worst_case"].items():
        if len(figure["attacks"]) > 1 and all(threat in test.results["worst_case"] for test in tests):
            worst = [test.results["worst_case"][threat] for test in tests]
            found.append(_accuracy(f"worst case, {threat}", tests, figure["attacks"], worst))
    return found + _measured(tests)


def _attack(name: str, figure: Mapping[str, Any], tests: Sequence[FinishedTest]) -> list[Row]:
    """The accuracy under an attack, the mean norm of what it found, or both."""
    title = f"{name} (noise)" if figure["kind"] == "noise" else f"{name}, {figure['threat_model']}"
    figures = [test.results["attacks"][name] for test in tests]
    found = []
    if all("accuracy" in each for each in figures):
        found.append(_accuracy(title, tests, [name], figures))
    if all("minimum_norm" in each for each in figures):
        found.append(_norm(name, tests))
    return found


def _accuracy(
    title: str, tests: Sequence[FinishedTest], attacks: Sequence[str], figures: Sequence[Mapping[str, Any]]
) -> Row:
    """A row of accuracies under all of some attacks; they have to be those of the runs' `results.json`."""
    columns = [_right(test, attacks) for test in tests]
    values: dict[str, Any] = {}
    differences: dict[str, Any] = {}
    for test, column, figure in zip(tests, columns, figures, strict=True):
        correct, n = float(column.sum()), len(column)
        if not isclose(correct, figure["correct"], abs_tol=1e-6) or n != figure["n"]:
            raise UserError(
                f"{title}: per_sample.parquet in {test.folder} has {correct:g} of {n} right, and results.json "
                f"{figure['correct']} of {figure['n']}; test the run again"
            )
        counted = {"correct": figure["correct"], "n": n}
        values[test.label] = {"value": correct / n, **counted, "interval_95": list(wilson(correct, n))}
    for test, column in zip(tests[1:], columns[1:], strict=True):
        differences[test.label] = _difference(columns[0], column)
    bound = figures[0].get("bound")
    return {"name": title, "quantity": ACCURACY, "bound": bound, "values": values, "differences": differences}


def _right(test: FinishedTest, attacks: Sequence[str]) -> Column:
    """How right each sample is under the strongest of some attacks, (N,)."""
    before, right = ([_select(test, name, key) for name in attacks] for key in ("right_before", "right"))
    return strongest(before, right)


def _difference(first: Column, second: Column) -> dict[str, Any]:
    """A paired difference of accuracies, with counts of pairs, unless a random network's samples are right in part."""
    if not np.isin(np.concatenate([first, second]), (0, 1)).all():
        gain = mean_difference(first, second)
        interval = None if gain.interval is None else list(gain.interval)
        return {"difference": gain.difference, "interval_95": interval, "p": None, "n": gain.n}
    counts = paired_counts(first == 1, second == 1)
    return {
        "difference": counts.difference,
        "interval_95": list(tango(counts)),
        "p": mcnemar(counts),
        "n": counts.n,
        **asdict(counts),
    }


def _norm(name: str, tests: Sequence[FinishedTest]) -> Row:
    """A row of mean norms of minimum-norm adversarials, paired where both runs were right and have one."""
    columns = [_norms(test, name) for test in tests]
    own = [test.results["attacks"][name]["minimum_norm"] for test in tests]
    kept = ("interval_95", "median", "found", "n")
    values = {
        test.label: {"value": figure["mean"], **{key: figure.get(key) for key in kept}}
        for test, figure in zip(tests, own, strict=True)
    }
    differences: dict[str, Any] = {}
    for test, column in zip(tests[1:], columns[1:], strict=True):
        gain = mean_difference(columns[0], column)
        interval = None if gain.interval is None else list(gain.interval)
        differences[test.label] = {"difference": gain.difference, "interval_95": interval, "p": None, "n": gain.n}
    title = f"{name}, mean {NAMES[own[0]['norm']]} norm"
    return {"name": title, "quantity": NORM, "bound": AT_MOST, "values": values, "differences": differences}


def _measured(tests: Sequence[FinishedTest]) -> list[Row]:
    """The headline figures of the measurements that all tests have; they are of whole sets and not paired."""
    found = []
    for name, content in tests[0].measurements.items():
        tables = [test.measurements.get(name, {}).get(TABLE, {}) for test in tests]
        for key in content.get(TABLE, {}):
            if all(key in table for table in tables):
                values = {test.label: {"value": table[key]} for test, table in zip(tests, tables, strict=True)}
                title = key if key.startswith(f"{name}/") else f"{name}: {key}"
                found.append({"name": title, "quantity": MEASURED, "bound": None, "values": values, "differences": {}})
    return found


def _select(test: FinishedTest, name: str, column: str) -> Column:
    """A column of one attack's rows, in the order of the images."""
    mine = np.flatnonzero(test.samples["attack"] == name)
    return test.samples[column][mine[np.argsort(test.samples["index"][mine], kind="stable")]]


def _norms(test: FinishedTest, name: str) -> Column:
    """Norms of a minimum-norm attack's adversarials, (N,); infinite where there is none or the clean image is wrong."""
    # An adversarial beyond the radius that counts is not broken, but the final image is wrong all the same.
    found = _select(test, name, "broken") | (_select(test, name, "margin") < 0)
    right = _select(test, name, "prediction") == _select(test, name, "label")
    norms: Column = np.where(found & right, _select(test, name, "distance"), np.inf)
    return norms


def _check_pairs(tests: Sequence[FinishedTest]) -> None:
    """Refuses tests of other images, or of images with other labels."""
    first = tests[0]
    for test in tests[1:]:
        for column, what in (("index", "other images"), ("label", "images with other labels")):
            if not np.array_equal(_select(first, CLEAN, column), _select(test, CLEAN, column)):
                raise UserError(
                    f"{first.label} and {test.label} were tested on {what} ({first.folder}, {test.folder}) and cannot "
                    "be paired: test both on the same data, in the same version"
                )
