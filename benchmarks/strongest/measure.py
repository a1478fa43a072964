"""The small systems under AutoAttack and the black-box attacks: the README's table of strongest numbers.

    python -m benchmarks.strongest.measure --root DATA

Natural, PGD, TRADES and HaH training of three seeds each, as in `benchmarks.small_systems` (5 epochs of 100 batches),
then the tests of the two configs beside this file, on the same images except for HaH's black-box test, which has
fewer. What is finished is skipped, and a test that was interrupted goes on. Writes `results/strongest.json` and each
test's per-sample results.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import torch

from benchmarks.small_systems import RESULTS, SEEDS, lit_robust

SYSTEMS = ("natural_small", "pgd_at_small", "trades_small", "hah_small")
TESTS = ("autoattack", "black_box")
REDUCED = ["--trainer.max_epochs=5", "--trainer.limit_train_batches=100"]
STEPS = 500
FEWER = {("hah_small", "black_box"): ["--data.eval_batch_size=4"]}  # its network takes ten times as long
HERE = Path(__file__).parent


def measure(system: str, seed: int, test: str, root: str, runs: Path) -> dict[str, Any]:
    """The results of a test of one system and seed, trained and tested unless that was done before."""
    name = f"{system}-seed{seed}"
    run = runs / name / "1"
    results = run / "tests" / f"{test}-1" / "results.json"
    if not trained(run / "checkpoints" / "last.ckpt"):
        shutil.rmtree(runs / name, ignore_errors=True)
        place = ["--name", name, "--runs", str(runs), f"--data.root={root}"]
        lit_robust("fit", "--config", f"{system}.yaml", *place, *REDUCED, f"--seed_everything={seed}")
    if not results.is_file():
        settings = ["--config", str(HERE / f"{test}.yaml"), *FEWER.get((system, test), [])]
        lit_robust("test", "--run", str(run), *settings, f"--data.root={root}")
    shutil.copy(results.with_name("per_sample.parquet"), RESULTS / "strongest" / f"{name}-{test}.parquet")
    found: dict[str, Any] = json.loads(results.read_text())
    return found


def trained(checkpoint: Path) -> bool:
    """Whether a training went to its end."""
    return checkpoint.is_file() and torch.load(checkpoint, weights_only=True)["global_step"] == STEPS


def figures(results: dict[str, Any]) -> dict[str, float]:
    """What the table shows of a test's results, accuracies as shares."""
    shown = {"clean": results["clean"]["accuracy"]}
    for name, attack in results["attacks"].items():
        norms = attack.get("minimum_norm")
        if norms is None:
            shown[name] = attack["accuracy"]
        else:
            shown |= {f"{name}, found": norms["found"] / norms["n"], f"{name}, mean L2": norms["mean"]}
    seconds = sum(attack["seconds"] for attack in results["attacks"].values())
    return {**shown, "seconds": seconds}


def main() -> None:
    """Runs what is missing and writes the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder of FashionMNIST")
    parser.add_argument("--runs", default="runs/small_systems", type=Path)
    parser.add_argument("--tests", nargs="+", default=list(TESTS), choices=TESTS)
    options = parser.parse_args()
    (RESULTS / "strongest").mkdir(parents=True, exist_ok=True)
    path = RESULTS / "strongest.json"
    summary: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    summary |= {"command": "python -m benchmarks.strongest.measure --root DATA", "reduced": REDUCED}
    for test in options.tests:
        for system in SYSTEMS:
            found = [figures(measure(system, seed, test, options.root, options.runs)) for seed in SEEDS]
            names = [name for name in found[0] if all(each.get(name) is not None for each in found)]
            shown = {name: [each[name] for each in found] for name in names}
            summary[f"{system}, {test}"] = {
                name: {"seeds": values, "mean": statistics.mean(values), "deviation": statistics.stdev(values)}
                for name, values in shown.items()
            }
            path.write_text(json.dumps(summary, indent=2) + "\n")
            print(system, test, {name: [round(value, 3) for value in values] for name, values in shown.items()})


if __name__ == "__main__":
    main()
