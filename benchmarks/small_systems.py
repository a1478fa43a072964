"""Trains and tests the small systems on Fashion-MNIST for three seeds: the README's table of results.

    python -m benchmarks.small_systems --root DATA

Each run is an ordinary `fit` and `test` of a shipped config, reduced to 5 epochs of 100 batches and the first 1,024
test images. Finished runs are skipped, so the command may be stopped and started again. Writes
`results/small_systems.json` (all figures and their mean over seeds) and each run's per-sample results.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

SYSTEMS = ("natural_small", "noise_small", "fast_at_small", "pgd_at_small", "trades_small")
SEEDS = (0, 1, 2)
REDUCED = ["--trainer.max_epochs=5", "--trainer.limit_train_batches=100", "--trainer.limit_test_batches=4"]
RESULTS = Path(__file__).parent / "results"


def lit_robust(*argv: str) -> None:
    """Runs a command of the package, quietly."""
    subprocess.run([sys.executable, "-m", "lit_robust", *argv, "--trainer.enable_progress_bar=false"], check=True)


def measure(system: str, seed: int, root: str, runs: Path) -> dict[str, Any]:
    """The results of one system and seed, trained and tested unless that was done before."""
    name = f"{system}-seed{seed}"
    results = runs / name / "1" / "tests" / f"{system}-1" / "results.json"
    if not results.is_file():
        shutil.rmtree(runs / name, ignore_errors=True)
        common = ["--config", f"{system}.yaml", "--name", name, "--runs", str(runs), f"--data.root={root}", *REDUCED]
        lit_robust("fit", *common, f"--seed_everything={seed}")
        lit_robust("test", *common)
    shutil.copy(results.with_name("per_sample.parquet"), RESULTS / "small_systems" / f"{name}.parquet")
    found: dict[str, Any] = json.loads(results.read_text())
    return found


def main() -> None:
    """Runs what is missing and writes the summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True, help="folder of FashionMNIST")
    parser.add_argument("--runs", default="runs/small_systems", type=Path)
    options = parser.parse_args()
    (RESULTS / "small_systems").mkdir(parents=True, exist_ok=True)
    summary: dict[str, Any] = {"command": "python -m benchmarks.small_systems --root DATA", "reduced": REDUCED}
    for system in SYSTEMS:
        found = [measure(system, seed, options.root, options.runs) for seed in SEEDS]
        figures = {"clean": [f["clean"]["accuracy"] for f in found]}
        figures |= {name: [f["attacks"][name]["accuracy"] for f in found] for name in found[0]["attacks"]}
        summary[system] = {
            name: {"seeds": values, "mean": statistics.mean(values), "deviation": statistics.stdev(values)}
            for name, values in figures.items()
        }
        (RESULTS / "small_systems.json").write_text(json.dumps(summary, indent=2) + "\n")
        print(
            system,
            {
                name: f"{100 * figure['mean']:.1f} ± {100 * figure['deviation']:.1f}"
                for name, figure in summary[system].items()
            },
        )


if __name__ == "__main__":
    main()
