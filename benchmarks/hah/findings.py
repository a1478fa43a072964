"""The findings of chapter 5 at a small scale: HaH and its ablations against the baseline, from the runs of a sweep.

    python -m benchmarks.hah.findings RUNS/sweeps/cifar

Reads what `sweep benchmarks/hah/cifar.yaml` left, copies the per-sample results to `benchmarks/results/hah`, writes the
figures to `benchmarks/results/hah.json` and prints the README's tables. A difference is paired on images and seeds. Its
95 % interval is Student's with the variance over seeds and the variance over images added, and degrees of freedom after
Welch and Satterthwaite; part of the second is in the first too, so it is rather too wide.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from statistics import mean, stdev, variance
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from scipy.stats import t as student

OUT = Path(__file__).parents[1] / "results"
BLOCKS = range(1, 7)
REFERENCES = ("baseline", "hah")  # what each system is compared with
Run = dict[str, Any]


def load(cell: Path) -> Run | None:
    """What the tests of a cell's run found: figures by name, and for accuracies whether each image is right."""
    tests = {path.name.rpartition("-")[0]: path for path in sorted(cell.glob("*/tests/*"))}
    if not {"budgets", "inside"} <= set(tests) or not (tests["inside"] / "corruptions.json").is_file():
        return None
    read = {name: json.loads((tests["inside"] / f"{name}.json").read_text()) for name in ("noise", "snr", "sparsity")}
    corrupted = json.loads((tests["inside"] / "corruptions.json").read_text())
    rows = _columns(tests["budgets"] / "per_sample.parquet")
    right = {name: ~rows["broken"][rows["attack"] == name] for name in np.unique(rows["attack"])}
    table = _columns(tests["inside"] / "corruptions.parquet")
    noisy = _columns(tests["inside"] / "noise.parquet")
    conditions = [column for name, column in table.items() if "/" in name]
    seen = {"clean": table["clean"], "C-like, severity 5": np.mean(conditions, axis=0), "contrast": table["contrast/5"]}
    snr, sparsity = read["snr"]["table"], read["sparsity"]["table"]
    return {
        "images": {
            **seen,
            "noise 0.1": _right_under_noise(noisy, 0.1),
            "noise 0.2": _right_under_noise(noisy, 0.2),
            "L∞ 2/255": right["linf_2_targeted"],
            "L∞ 8/255": right["linf_8_ce"],
            "L2 0.25": right["l2_0.25_targeted"],
        },
        "figures": {
            "sparsity, blocks 1 to 6": mean(sparsity[f"sparsity/block{n}"] for n in BLOCKS),
            "SNR behind blocks 1 to 6, dB": mean(snr[f"snr/block{n + 1}.conv"] for n in BLOCKS),
        },
        "snr": snr,
        "sparsity": sparsity,
        "noise": read["noise"]["table"],
        "corruptions": corrupted["table"],
    }


def _columns(path: Path) -> dict[str, Any]:
    """The columns of a table in the order of the samples, as NumPy arrays."""
    table = pq.read_table(path).sort_by("index")
    return {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}


def _right_under_noise(columns: dict[str, Any], sigma: float) -> Any:  # noqa: ANN401 - an array
    """How often each image is right over the draws of a noise level."""
    predictions = np.stack(columns[f"sigma {sigma}"])
    return (predictions == columns["label"][:, None]).mean(1)


def difference(ours: list[Run], theirs: list[Run], kind: str, name: str) -> dict[str, float]:
    """Mean difference over seeds with its interval; ours less theirs."""
    pairs = [(a[kind][name], b[kind][name]) for a, b in zip(ours, theirs, strict=True)]
    each = [np.asarray(a, float) - np.asarray(b, float) for a, b in pairs]
    over_seeds = [float(e.mean()) for e in each]
    of_images = np.mean(each, axis=0).ravel()
    parts = [(variance(over_seeds) / len(over_seeds), len(over_seeds) - 1)]
    if of_images.size > 1:
        parts.append((float(of_images.var(ddof=1)) / of_images.size, of_images.size - 1))
    squared = sum(part for part, _ in parts)
    middle, half = mean(over_seeds), 0.0
    if squared > 0:
        freedom = squared**2 / sum(part**2 / degrees for part, degrees in parts)
        half = float(student.ppf(0.975, freedom)) * squared**0.5
    return {"difference": middle, "low": middle - half, "high": middle + half}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, help="folder of the sweep")
    given = parser.parse_args()
    found: dict[str, dict[str, Run]] = {}
    (OUT / "hah").mkdir(parents=True, exist_ok=True)
    for cell in sorted(given.sweep.glob("*-seed*")):
        run = load(cell)
        if run is None:
            continue
        system, _, seed = cell.name.rpartition("-seed")
        found.setdefault(system, {})[seed] = run
        for path in cell.glob("*/tests/*/*.parquet"):
            kept = path.parent.name.rpartition("-")[0]
            if path.stem in ("per_sample", "corruptions") and kept in ("budgets", "inside"):
                shutil.copy(path, OUT / "hah" / f"{cell.name}-{kept}-{path.stem}.parquet")
    record = {"command": "python -m lit_robust sweep benchmarks/hah/cifar.yaml --data.root FOLDER", "systems": {}}
    for system, runs in found.items():
        seeds = sorted(set(runs) & set(found["baseline"]))
        figures = _figures([runs[s] for s in seeds])
        row: dict[str, Any] = {"seeds": seeds, "figures": figures}
        row |= {key: _mean_of([runs[s][key] for s in seeds]) for key in ("snr", "sparsity", "noise", "corruptions")}
        for other in REFERENCES:
            if system not in (other, "baseline") and len(seeds) > 1:
                pair = [runs[s] for s in seeds], [found[other][s] for s in seeds]
                kinds = {name: kind for kind in ("images", "figures") for name in pair[0][0][kind]}
                row[f"against_{other}"] = {name: difference(*pair, kind, name) for name, kind in kinds.items()}
        record["systems"][system] = row  # type: ignore[index]
        _print(system, row)
    (OUT / "hah.json").write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def _figures(runs: list[Run]) -> dict[str, dict[str, float]]:
    kinds = [(kind, name) for kind in ("images", "figures") for name in runs[0][kind]]
    values = {name: [float(np.mean(run[kind][name])) for run in runs] for kind, name in kinds}
    return {name: {"mean": mean(v), "deviation": stdev(v) if len(v) > 1 else 0.0} for name, v in values.items()}


def _mean_of(tables: list[dict[str, float]]) -> dict[str, float]:
    return {key: mean(table[key] for table in tables) for key in tables[0]}


def _print(system: str, row: dict[str, Any]) -> None:
    print(f"{system}, seeds {', '.join(row['seeds'])}")
    for name, f in row["figures"].items():
        line = f"  {name}: {_shown(name, f['mean'])} ± {_shown(name, f['deviation'])}"
        for other in REFERENCES:
            if f"against_{other}" in row:
                d = row[f"against_{other}"][name]
                low, high = (_shown(name, d[k]) for k in ("low", "high"))
                line += f"  less {other} {_shown(name, d['difference'])} ({low} to {high})"
        print(line)


def _shown(name: str, value: float) -> str:
    return f"{value:.2f}" if "SNR" in name or "sparsity" in name else f"{100 * value:.1f}"


if __name__ == "__main__":
    main()
