"""What a robust evaluation leaves behind: the figures in a file, in the terminal and in the loggers, and pictures."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch

from lit_robust.attacks import Attack
from lit_robust.attacks.minimum_norm import counted_in
from lit_robust.evaluation.adversarials import AdversarialStore
from lit_robust.evaluation.norms_figure import norms_figure
from lit_robust.evaluation.picture import Example, adversarial_figure, confidence
from lit_robust.evaluation.store import writing
from lit_robust.evaluation.table import results_table, screening_table
from lit_robust.loggers import log_figure
from lit_robust.threat import ThreatModel

RESULTS = "results.json"
PICTURE = "adversarial.png"
NORMS_PICTURE = "minimum_norms.png"


def report(
    trainer: pl.Trainer,
    folder: Path,
    results: Mapping[str, Any],
    attacks: Mapping[str, Attack],
    examples: Sequence[Example],
) -> None:
    """Writes, draws, logs and prints the results of a test.

    Args:
        trainer: The trainer, whose loggers get the figures.
        folder: Folder of the test.
        results: The content of `results.json`.
        attacks: Attacks by row.
        examples: Images for the picture.

    Raises:
        UserError: If the disk is full or cannot be written.
    """
    from rich.console import Console

    aside = (folder / RESULTS).with_suffix(".part")
    with writing(folder, RESULTS):
        aside.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    threat = pictured(attacks)
    if threat is not None:
        figure = adversarial_figure(examples, str(threat))
        with writing(folder, PICTURE):
            figure.savefig(folder / PICTURE, dpi=120)
        log_figure(trainer.loggers, "test/adversarial", figure, trainer.global_step)
    if any("minimum_norm" in figure for figure in results["attacks"].values()):
        run = "/".join(Path(results.get("run") or results.get("title", "test")).parts[-2:])
        figure = norms_figure({run: results})
        with writing(folder, NORMS_PICTURE):
            figure.savefig(folder / NORMS_PICTURE, dpi=120)
        log_figure(trainer.loggers, "test/minimum_norms", figure, trainer.global_step)
    with writing(folder, RESULTS):
        os.replace(aside, folder / RESULTS)  # last: it says that the test is finished
    for logger in trainer.loggers:
        logger.log_metrics(_headlines(results), step=trainer.global_step)
    console = Console(width=120)
    for name, screening in results.get("screening", {}).items():
        console.print(screening_table(screening, name))
    console.print(results_table(dict(results), str(results.get("title", "test"))))
    for note in results.get("notes", []):
        print(note)
    if not results["clean"]["correct"]:
        print("no image is classified correctly without an attack, so there was nothing to attack")
    print(f"results: {folder / RESULTS}")


def pictured(attacks: Mapping[str, Attack]) -> ThreatModel | None:
    """The threat model whose adversarials are shown: that of the last adversary."""
    adversaries = [attack for attack in attacks.values() if attack.adversarial]
    return counted_in(adversaries[-1]) if adversaries else None


def adversarial_examples(
    pl_module: pl.LightningModule,
    adversarials: AdversarialStore,
    attacks: Mapping[str, Attack],
    classes: Sequence[str],
    count: int,
) -> list[Example]:
    """Images for the picture, before and after the last adversary's threat model broke them.

    Args:
        pl_module: The classifier.
        adversarials: The adversarials that were found, not yet removed.
        attacks: Attacks by row.
        classes: Names of the classes.
        count: How many images at most.
    """
    pairs = adversarials.first(str(pictured(attacks)), count)
    if not pairs:
        return []
    x, x_adv = (torch.from_numpy(np.stack(images)) for images in zip(*pairs, strict=True))
    with torch.no_grad():
        before, after = (confidence(pl_module(images.to(pl_module.device)), classes) for images in (x, x_adv))
    return [Example(*parts) for parts in zip(x, x_adv, before, after, strict=True)]


def _headlines(results: Mapping[str, Any]) -> dict[str, float]:
    figures = results["attacks"].items()
    flat = {f"test/{name}": figure["accuracy"] for name, figure in figures if "accuracy" in figure}
    means = {name: figure.get("minimum_norm", {}).get("mean") for name, figure in figures}
    flat |= {f"test/{name} mean norm": mean for name, mean in means.items() if mean is not None}
    return flat | {f"test/worst {threat}": figure["accuracy"] for threat, figure in results["worst_case"].items()}
