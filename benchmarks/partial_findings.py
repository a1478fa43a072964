"""What the small sweep over partial training says about chapter 3: three findings, each with its size and interval.

    python -m lit_robust sweep partial_cutoffs_small.yaml --data.root DATA
    python -m lit_robust sweep draw partial_cutoffs_small.yaml
    python -m benchmarks.partial_findings runs/sweeps/partial_cutoffs_small --root DATA

Early layers matter more: robust accuracy over the number of adversarial layers, from none to all, is averaged by the
trapezoidal rule, once with the first layers adversarial and once with the last; the difference is paired by seed. Loss
falls exponentially: the fits of `sweep draw`. Perturbations grow: the perturbation-to-signal ratio of the last layer
less that of the first, in dB, of the natural and of the adversarial first stages, which are tested here. Intervals are
Student's over seeds. Writes `results/partial_findings.json`, with the sweep's numbers.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from scipy.stats import t as student

from benchmarks.small_systems import RESULTS, lit_robust

# First layers adversarial, and last layers adversarial; in each pair the same part is retrained.
PAIRS = {"late part retrained": ("A1N2", "N1A2"), "early part retrained": ("A2N1", "N2A1")}
ACCURACY = "own/pgd50"
LOSS = "own/loss/pgd20"
CONFIG = "psr_digits"


def main() -> None:
    """Prints the findings and keeps them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, help="folder of the sweep, drawn")
    parser.add_argument("--root", required=True, help="folder of Fashion-MNIST")
    given = parser.parse_args()
    content = json.loads((given.sweep / "partial.json").read_text())
    found: dict[str, Any] = {
        "command": "python -m benchmarks.partial_findings runs/sweeps/partial_cutoffs_small --root DATA"
    }
    found["early less late, robust accuracy"] = early_less_late(content["columns"][ACCURACY], len(content["layers"]))
    loss = content["columns"].get(LOSS, {})
    found["fits of the loss"] = {label: curve["fits"] for label, curve in loss.items() if curve["fits"]}
    found["growth of PSR in dB"] = growth(given.sweep, given.root)
    print(json.dumps(found, indent=2))
    path = RESULTS / "partial_findings.json"
    path.write_text(json.dumps({**found, "sweep": content}, indent=1, ensure_ascii=False) + "\n")


def early_less_late(curves: dict[str, Any], layers: int) -> dict[str, Any]:
    """Mean robust accuracy with the first layers adversarial, with the last ones, and the difference."""
    found = {}
    for name, codes in PAIRS.items():
        areas = [_areas(curves[code]["points"], layers) for code in codes]
        seeds = [seed for seed in areas[0] if seed in areas[1]]
        pairs = [(areas[0][seed], areas[1][seed]) for seed in seeds]
        found[f"{name}: {codes[0]} less {codes[1]}"] = {
            "first layers": fmean(a for a, _ in pairs),
            "last layers": fmean(b for _, b in pairs),
            "difference": interval([a - b for a, b in pairs]),
        }
    return found


def _areas(points: Sequence[dict[str, Any]], layers: int) -> dict[str, float]:
    """Mean over the number of adversarial layers, by seed; a run that guesses counts as it is."""
    ordered = sorted(points, key=lambda point: point["adversarial"])
    seeds = [seed for seed in ordered[0]["values"] if all(seed in point["values"] for point in ordered)]
    at = [point["adversarial"] for point in ordered]
    if at[0] != 0 or at[-1] != layers:
        raise SystemExit(f"the curve goes from {at[0]} to {at[-1]} adversarial layers, not from 0 to {layers}")
    return {seed: float(np.trapezoid([p["values"][seed] for p in ordered], at)) / layers for seed in seeds}


def growth(sweep: Path, root: str) -> dict[str, Any]:
    """By how much the ratio grows from the first to the last convolution, in L2, of each kind of first stage."""
    cells = json.loads((sweep / "results.json").read_text())["cells"]
    by_kind: dict[str, dict[str, float]] = {}
    levels: dict[str, dict[str, list[float]]] = {}
    for kind in ("natural", "adversarial"):
        group = next(cell for name, cell in cells.items() if cell.get("first") and kind in name)
        for seed, run in group["seeds"].items():
            layers = _psr(sweep / run["run"], root)
            levels.setdefault(kind, {})[seed] = layers
            by_kind.setdefault(kind, {})[seed] = layers[-1] - layers[0]
    natural, adversarial = (by_kind[kind] for kind in ("natural", "adversarial"))
    return {
        "natural": interval(list(natural.values())),
        "adversarial": interval(list(adversarial.values())),
        "natural less adversarial": interval([natural[seed] - adversarial[seed] for seed in natural]),
        "levels": levels,
    }


def _psr(run: Path, root: str) -> list[float]:
    folder = run / "tests" / f"{CONFIG}-1"
    if not (folder / "results.json").is_file():
        few = ["--data.eval_batch_size=100", "--trainer.limit_test_batches=10"]
        lit_robust("test", "--run", str(run), "--config", f"{CONFIG}.yaml", f"--data.root={root}", *few)
    layers = json.loads((folder / "psr.json").read_text())["layers"]
    return [layer["l2"]["db"] for layer in layers.values()]


def interval(values: Sequence[float]) -> dict[str, Any]:
    """Mean over seeds with Student's 95 % interval."""
    half = float(student.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return {"mean": fmean(values), "interval_95": [fmean(values) - half, fmean(values) + half], "seeds": len(values)}


if __name__ == "__main__":
    main()
