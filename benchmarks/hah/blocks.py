"""Figure 5.10 at a small scale: accuracy against the number of HaH blocks, from the runs of a sweep.

    python -m benchmarks.hah.blocks RUNS/sweeps/blocks

Reads what `sweep benchmarks/hah/blocks.yaml` left, writes `benchmarks/results/hah_blocks.json`, copies the per-sample
results beside it, draws `docs/hah_blocks.png` and prints the README's table: mean and standard deviation over seeds.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from statistics import mean, stdev

from matplotlib.figure import Figure

ROOT = Path(__file__).parents[2]
OUT = ROOT / "benchmarks" / "results"
NAMES = {"clean": "clean", "noise": "Gaussian noise, 0.2", "linf_2_ce": "L∞ 2/255, at most"}
Accuracies = dict[int, dict[str, list[float]]]


def load(sweep: Path) -> Accuracies:
    """Accuracies by number of blocks and by attack, one a seed."""
    found: Accuracies = {}
    for results in sorted(sweep.glob("*-seed*/*/tests/block_budgets-*/results.json")):
        cell = results.parents[3].name
        content = json.loads(results.read_text())
        of_blocks = found.setdefault(int(cell.partition("-")[0]), {name: [] for name in NAMES})
        of_blocks["clean"].append(content["clean"]["accuracy"])
        for name in ("noise", "linf_2_ce"):
            of_blocks[name].append(content["attacks"][name]["accuracy"])
        (OUT / "hah_blocks").mkdir(parents=True, exist_ok=True)
        shutil.copy(results.with_name("per_sample.parquet"), OUT / "hah_blocks" / f"{cell}.parquet")
    return dict(sorted(found.items()))


def draw(found: Accuracies) -> Figure:
    """Means over seeds, with a bar from the lowest to the highest."""
    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    axis = figure.subplots()
    for name, title in NAMES.items():
        values = [[100 * value for value in of_blocks[name]] for of_blocks in found.values()]
        means = [mean(v) for v in values]
        below = [m - min(v) for m, v in zip(means, values, strict=True)]
        above = [max(v) - m for m, v in zip(means, values, strict=True)]
        axis.errorbar(list(found), means, yerr=[below, above], marker="o", capsize=3, label=title)
    axis.set_xlabel("HaH blocks")
    axis.set_ylabel("accuracy, %")
    axis.set_xticks(list(found))
    axis.set_ylim(0, 100)
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, help="folder of the sweep")
    found = load(parser.parse_args().sweep)
    record = {"command": "python -m lit_robust sweep benchmarks/hah/blocks.yaml", "accuracies": found}
    (OUT / "hah_blocks.json").write_text(json.dumps(record, indent=2) + "\n")
    draw(found).savefig(ROOT / "docs" / "hah_blocks.png", dpi=110)
    for blocks, values in found.items():
        row = [f"{100 * mean(values[name]):.1f} ± {100 * stdev(values[name]):.1f}" for name in NAMES]
        print(f"| {blocks} | {' | '.join(row)} |")


if __name__ == "__main__":
    main()
