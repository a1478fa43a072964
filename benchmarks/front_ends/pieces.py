"""Fits and tests by the command line that may be stopped and started again: what is finished is skipped."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.small_systems import RESULTS, lit_robust

WEIGHTS = Path(__file__).parents[1] / "models"
KEPT = RESULTS / "front_ends"
RUNS = Path("runs")  # where the shipped configs look for each other's runs
_TIMES = "seconds.txt"
_SMALL = 2**20  # bytes of weights that are kept in the repository


def fit(name: str, settings: Sequence[str]) -> Path:
    """The run of a system, trained to its end unless it was before; an interrupted one goes on.

    Args:
        name: Name of the run.
        settings: What follows `fit`.
    """
    run = RUNS / name / "1"
    last = run / "checkpoints" / "last.ckpt"
    if last.is_file() and _finished(run, last):
        return run
    started = time.monotonic()
    if last.is_file():
        lit_robust("fit", "--resume", str(run))
    else:
        shutil.rmtree(RUNS / name, ignore_errors=True)
        lit_robust("fit", *settings, "--name", name)
    with (RUNS / name / _TIMES).open("a") as file:
        file.write(f"{time.monotonic() - started:.1f}\n")
    return run


def tested(run: Path, config: str | Path, settings: Sequence[str]) -> dict[str, Any]:
    """The results of a test of a run, which is not done twice; an interrupted one goes on.

    Args:
        run: The run.
        config: Config of the evaluation.
        settings: What follows on the command line.
    """
    title = Path(config).stem
    folder = run / "tests" / f"{title}-1"
    if not (folder / "results.json").is_file():
        lit_robust("test", "--run", str(run), "--config", str(config), *settings)
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    KEPT.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("*.parquet"):
        if file.stem != "per_sample" or found["attacks"]:
            kind = "" if file.stem == "per_sample" else f"-{file.stem}"
            shutil.copy(file, KEPT / f"{run.parent.name}-{title}{kind}.parquet")
    for file in folder.glob("*.json"):
        if file.name != "results.json":
            found[file.stem] = json.loads(file.read_text())
    return found


def keep_weights(run: Path) -> None:
    """Stores the network of a run beside the benchmarks, if it is small."""
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    network = {key.removeprefix("network."): value for key, value in state.items() if key.startswith("network.")}
    if sum(value.numel() * value.element_size() for value in network.values()) <= _SMALL:
        torch.save(network, WEIGHTS / f"{run.parent.name}.pt")


def seconds(run: Path) -> float | None:
    """Seconds that the fits of a run took in all; None if they were not timed."""
    file = run.parent / _TIMES
    return sum(map(float, file.read_text().split())) if file.is_file() else None


def short(results: dict[str, Any]) -> dict[str, Any]:
    """What a table shows of a test: counts by row, N, the worst case, and which backward passes were the strongest."""
    rows = {name: figure["correct"] for name, figure in results["attacks"].items() if "correct" in figure}
    worst = {threat: figure["correct"] for threat, figure in results["worst_case"].items()}
    screened = {
        name: {row["label"]: row["correct"] for row in screening["combinations"]}
        for name, screening in results.get("screening", {}).items()
    }
    seconds = sum(figure["seconds"] for figure in results["attacks"].values())
    clean = results["clean"]
    return {
        "n": clean["n"],
        "clean": clean["correct"],
        "correct": rows,
        "worst case": worst,
        "seconds": round(seconds, 1),
        **({"screening": screened} if screened else {}),
    }


def write(path: Path, summary: dict[str, Any]) -> None:
    """Writes a summary."""
    path.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n")


def _finished(run: Path, last: Path) -> bool:
    epochs = yaml.safe_load((run / "config.yaml").read_text())["trainer"]["max_epochs"]
    done: int = torch.load(last, weights_only=True)["epoch"]
    return done + 1 >= epochs
