"""The numbers of figures 3.6 to 3.11: a figure of a sweep against the cutoff, its difference to a control, and fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from lit_robust.analysis.decay_fit import compare_fits
from lit_robust.sweep.partial_cells import CUTOFF, PartialCells, Places
from lit_robust.sweep.table import ACCURACY

_LOSS = "/loss/"  # in the names of columns that are mean cross-entropies, `<test>/loss/<attack>`
_OF = {"A": "adversarial", "N": "natural"}
_Runs = Mapping[str, Mapping[str, Any]]  # what the table says of a group's runs, by seed


def columns(results: Mapping[str, Any]) -> list[str]:
    """The columns of a sweep's table that are drawn: accuracies, and losses where a test measured them."""
    return [column for column, kind in results["columns"].items() if kind == ACCURACY or _LOSS in column]


def curves(
    parts: Sequence[PartialCells], results: Mapping[str, Any], places: Places, column: str
) -> dict[str, dict[str, Any]]:
    """The points of each code, as plain JSON.

    A point of a cutoff k has k layers before it. Those of 0 and of all layers are the runs of stage one, of the type of
    the later and of the earlier layers. Runs that guess are listed as collapsed and in no mean, difference or fit. The
    difference is to the control with the same cutoff and seed that retrains the part as the other part was trained
    (A1A2 for A1N2), where the sweep has it, else to the first stage that the kept part is from, of the same seed.

    Args:
        parts: The cells of each code.
        results: The sweep's table; see `table.summarise`.
        places: Where cutoffs and layers lie.
        column: The column of the table.

    Returns:
        By label: `code`, `kind`, `control`, `fits` of mixed codes over the number of adversarial layers (of cutoffs
        alone; see `compare_fits`), and `points`: `place`, `name`, `adversarial` (number of such layers), `values` and
        `collapsed` by seed, `mean`, `low` and `high` over seeds, and `difference`.
    """
    found = {}
    for part in parts:
        runs = _runs(part, results, places)
        control = _control(part, parts, results, places, column)
        points = [_point(part, place, *runs[place], control, len(places.layers), column) for place in sorted(runs)]
        known = [point for point in points if point["values"]]
        fits = part.kind == CUTOFF and part.mixed
        found[part.label] = {
            "code": part.code,
            "kind": part.kind,
            "control": control[0],
            "points": known,
            "fits": compare_fits(_by_seed(known)) if fits else None,
        }
    return found


def _runs(part: PartialCells, results: Mapping[str, Any], places: Places) -> dict[int, tuple[str, _Runs]]:
    """Name and runs by place, end points included."""
    cells = results["cells"]
    found = {places.of[part.kind, name]: (name, cells[group]["seeds"]) for name, group in part.groups.items()}
    if part.kind == CUTOFF:
        ends = {0: ("none", part.code[2]), len(places.layers): ("all", part.code[0])}
        found |= {
            place: (name, cells[part.stages[way]]["seeds"]) for place, (name, way) in ends.items() if way in part.stages
        }
    return found


def _control(
    part: PartialCells, parts: Sequence[PartialCells], results: Mapping[str, Any], places: Places, column: str
) -> tuple[str | None, dict[int | None, dict[str, float]]]:
    """What a code is compared with: its name, and values by place (None: at every place) and seed."""
    if not part.mixed:
        return None, {}
    same = (other for other in parts if (other.kind, other.rest, other.code) == (part.kind, part.rest, part.control))
    other = next(same, None)
    if other is not None:
        return other.label, {place: _values(runs, column) for place, (_, runs) in _runs(other, results, places).items()}
    stage = part.stages.get(part.frozen)
    if stage is None:
        return None, {}
    return f"all-{_OF[part.frozen]}", {None: _values(results["cells"][stage]["seeds"], column)}


def _point(
    part: PartialCells,
    place: int,
    name: str,
    runs: _Runs,
    control: tuple[str | None, Mapping[int | None, Mapping[str, float]]],
    layers: int,
    column: str,
) -> dict[str, Any]:
    values = _values(runs, column)
    kept = {seed: value for seed, value in values.items() if not runs[seed].get("collapsed")}
    base = control[1].get(place, control[1].get(None, {}))
    paired = [value - base[seed] for seed, value in kept.items() if seed in base]
    if part.kind == CUTOFF:
        adversarial = place if part.code[0] == "A" else layers - place
    else:
        adversarial = layers - 1 if part.frozen == "A" else 1
    return {
        "place": place,
        "name": name,
        "adversarial": adversarial if part.mixed else (layers if part.frozen == "A" else 0),
        "values": values,
        "collapsed": [seed for seed in values if seed not in kept],
        "mean": fmean(kept.values()) if kept else None,
        "low": min(kept.values(), default=None),
        "high": max(kept.values(), default=None),
        "difference": {
            "mean": fmean(paired) if paired else None,
            "interval_95": _interval(paired),
            "n": len(paired),
        },
    }


def _values(runs: _Runs, column: str) -> dict[str, float]:
    return {seed: run["values"][column] for seed, run in runs.items() if column in run.get("values", {})}


def _by_seed(points: Sequence[Mapping[str, Any]]) -> list[dict[float, float]]:
    seeds = dict.fromkeys(seed for point in points for seed in point["values"])
    return [
        {
            point["adversarial"]: point["values"][seed]
            for point in points
            if seed in point["values"] and seed not in point["collapsed"]
        }
        for seed in seeds
    ]


def _interval(values: Sequence[float]) -> list[float] | None:
    """Student's t interval of a mean over seeds; None for a single one."""
    from statistics import stdev

    from scipy.stats import t

    if len(values) < 2:
        return None
    half = float(t.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return [fmean(values) - half, fmean(values) + half]
