"""Figures of accuracy under corruptions: means with their intervals, and the mean corruption error."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_robust.callbacks.measurement import TABLE
from lit_robust.corruptions import CORRUPTIONS, GROUPS
from lit_robust.errors import UserError
from lit_robust.evaluation.interval import wilson

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Flags = NDArray[np.bool_]

TABLE_5_2 = tuple(name for name, corruption in CORRUPTIONS.items() if not corruption.extra)


def summarise_corruptions(
    columns: Mapping[str, Any], corruptions: Sequence[str], severities: Sequence[int]
) -> dict[str, Any]:
    """Accuracies with Wilson's 95 % intervals, from one column of flags a condition.

    Means count every condition alike. Their intervals take all conditions of an image as one draw, because they depend
    on each other, and are therefore at most too wide.

    Args:
        columns: `clean` and `<corruption>/<severity>`: whether each sample is right, (N,).
        corruptions: The corruptions that were measured.
        severities: The severities that were measured.
    """

    def mean(names: Sequence[str], of: Sequence[int] = severities) -> dict[str, Any]:
        return _figure([columns[f"{name}/{severity}"] for name in names for severity in of])

    each: dict[str, dict[str, Any]] = {}
    for name in corruptions:
        single = {str(severity): mean([name], [severity]) for severity in severities}
        each[name] = {"group": CORRUPTIONS[name].group, **mean([name]), "severities": single}
    groups = {group: [name for name in corruptions if CORRUPTIONS[name].group == group] for group in GROUPS}
    means = {group: mean(names) for group, names in groups.items() if names}
    clean, all_ = _figure([columns["clean"]]), mean(corruptions)
    severity_5 = None
    if 5 in severities and set(TABLE_5_2) <= set(corruptions):
        severity_5 = {"groups": {g: _severity_5(each, groups[g]) for g in GROUPS}, **mean(TABLE_5_2, [5])}
    table = {"clean": clean, "mean": all_, **means, **({"severity 5": severity_5} if severity_5 else {}), **each}
    return {
        "n": clean["n"],
        "clean": clean,
        "mean": all_,
        "groups": means,
        "corruptions": each,
        "severity_5_table": severity_5,
        TABLE: {f"corruptions/{key}": figure["accuracy"] for key, figure in table.items()},
    }


def _severity_5(each: Mapping[str, Any], names: Sequence[str]) -> dict[str, float]:
    return {name: each[name]["severities"]["5"]["accuracy"] for name in names if name in TABLE_5_2}


def _figure(flags: Sequence[Flags]) -> dict[str, Any]:
    n = len(flags[0])
    accuracy = sum(int(flag.sum()) for flag in flags) / (n * len(flags))
    return {"accuracy": accuracy, "n": n, "interval_95": list(wilson(round(accuracy * n), n))}


def load_baseline(path: str, own: Mapping[str, Any]) -> dict[str, Any]:
    """The results of a baseline, if errors can be divided by its own.

    Args:
        path: Its `corruptions.json`.
        own: What is to be measured: `source`, `dataset`, `severities` and `names`.

    Raises:
        UserError: If they are no such results, of another source or other data, lack a condition, or make no error.
    """
    try:
        baseline: dict[str, Any] = json.loads(Path(path).expanduser().read_text())
        known = {name: {int(s) for s in figures["severities"]} for name, figures in baseline["corruptions"].items()}
        theirs = {key: baseline[key] for key in ("source", "dataset")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"expected baseline to be the corruptions.json of a test, got {path} ({error!r})") from error
    for key, value in theirs.items():
        if value != own[key]:
            raise UserError(f"the baseline {path} has another {key}: {value}, here {own[key]}")
    for name in own["names"]:
        lacking = sorted(set(own["severities"]) - known.get(name, set()))
        if lacking:
            raise UserError(f"the baseline {path} lacks {name} at severity {', '.join(map(str, lacking))}")
        if not _errors(baseline, name, own["severities"]):
            raise UserError(f"the baseline {path} makes no error under {name}, so errors cannot be divided by its own")
    return baseline


def mean_corruption_error(results: Mapping[str, Any], baseline: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The mCE (Hendrycks and Dietterich, 2019, section 4.1) as a ratio: the baseline itself has 1.

    Args:
        results: What was measured.
        baseline: What `load_baseline` returned.
        path: Where it came from.

    Returns:
        `corruptions`, for each the sum of its errors over the severities divided by the baseline's, and `value`, their
        mean. The value is None, with a `reason`, if the baseline was measured on another number of images.
    """
    if results["n"] != baseline["n"]:
        reason = f"the baseline was measured on {baseline['n']} images, not on {results['n']}"
        return {"value": None, "baseline": path, "reason": reason}
    severities = results["severities"]
    ratios = {n: _errors(results, n, severities) / _errors(baseline, n, severities) for n in results["names"]}
    return {"value": sum(ratios.values()) / len(ratios), "baseline": path, "corruptions": ratios}


def _errors(results: Mapping[str, Any], name: str, severities: Sequence[int]) -> float:
    figures = results["corruptions"][name]["severities"]
    return sum(1.0 - float(figures[str(severity)]["accuracy"]) for severity in severities)
