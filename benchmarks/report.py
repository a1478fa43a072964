"""A report of three runs: seconds of the whole command, and size of the page.

The runs are of the small CNN on the embedded digits, untrained, each with adversarials of 360 images under three
attacks, minimal norms in two norms, and every measurement that the page draws. Ours is the command in a process of its
own, start-up and imports included; it is compared with the 10 s and the 10 MB that it may take.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import lightning.pytorch as pl

from benchmarks.timing import Comparison, options, report
from lit_robust import FGSM, PGD, ThreatModel, runs
from lit_robust.attacks import FMN, GaussianNoise
from lit_robust.callbacks import (
    CorruptionAccuracy,
    EpsCurve,
    GradCAMMaps,
    LayerPSR,
    LayerSNR,
    LayerSparsity,
    NoiseAccuracy,
    RobustEval,
)
from lit_robust.data import Digits
from lit_robust.nn import SmallCNN
from lit_robust.regimes import Natural

NAMES = ("first", "second", "third")
SECONDS, MEGABYTES = 10.0, 10.0


def make(folder: Path, *, blocks: int) -> None:
    """A run with one test, measured as `test` does."""
    size = 16
    network = {"class_path": "lit_robust.nn.SmallCNN", "init_args": {"size": size}}
    config = {
        "model": {"class_path": "lit_robust.regimes.Natural", "init_args": {"network": network}},
        "data": {"class_path": "lit_robust.data.Digits", "init_args": {"size": size}},
    }
    test = folder / "tests" / "all-1"
    test.mkdir(parents=True)
    for each in (folder, test):
        (each / runs.CONFIG).write_text(json.dumps(config))
    metrics = ["epoch,step,train/loss,val/acc", *(f"{e},{e},{1 / (e + 1)},{1 - 1 / (e + 2)}" for e in range(30))]
    (folder / "metrics.csv").write_text("\n".join(metrics) + "\n")
    pgd = PGD(threat=ThreatModel(eps=0.1), steps=5)
    attacks = {
        "fgsm": FGSM(threat=ThreatModel(eps=0.1)),
        "pgd": pgd,
        "l2": PGD(threat=ThreatModel(eps=1, norm="l2"), steps=5),
        "fmn_l2": FMN(norm="l2", steps=5),
        "fmn_linf": FMN(norm="linf", steps=5),
        "noise": GaussianNoise(sigma=0.1),
    }
    measurements = [
        EpsCurve(attack=pgd, eps=[0.05, 0.1, 0.2]),
        NoiseAccuracy(sigmas=[0, 0.1, 0.2], draws=1),
        CorruptionAccuracy(),
        LayerSNR(sigma=0.1),
        LayerPSR(attack=pgd),
        LayerSparsity(at="input"),
        GradCAMMaps(images=8),
    ]
    evaluation = RobustEval(attacks, pictures=4)
    evaluation.provenance = {"title": "all", "network": folder.parent.name, "images": "digits", "data": "Digits"}
    trainer = pl.Trainer(
        default_root_dir=test,
        logger=False,
        enable_progress_bar=False,
        limit_test_batches=blocks,
        callbacks=[*measurements, evaluation],
        accelerator="cpu",
    )
    module = Natural(SmallCNN(num_classes=10, in_channels=1, size=size))
    trainer.test(module.eval(), datamodule=Digits(size=size, eval_batch_size=60), verbose=False)


def main() -> None:
    given = options(__doc__).parse_args()
    rounds, blocks = (1, 1) if given.smoke else (5, 6)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        folders = [root / "runs" / each / "1" for each in NAMES]
        for folder in folders:
            make(folder, blocks=blocks)
        seconds = []
        for number in range(-1, rounds):  # the first fills the caches of files, and does not count
            page = root / "page.html"
            started = time.perf_counter()
            command = [sys.executable, "-m", "lit_robust", "report", *map(str, folders), "--to", str(page)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            if number >= 0:
                seconds.append(time.perf_counter() - started)
        took, size = median(seconds), page.stat().st_size / 1e6
        pictures = len(list(root.glob("*.png")))
    comparisons = [
        Comparison(name=title, ratio=ours / limit, target=1.0, bound="at most", ours=ours, theirs=limit, unit=unit)
        for title, ours, limit, unit in (
            ("report of three runs, against its limit", took, SECONDS, "s"),
            ("size of the page, against its limit", size, MEGABYTES, "MB"),
        )
    ]
    report(__spec__.name, comparisons, {"seconds": seconds, "pictures": pictures}, given)


if __name__ == "__main__":
    main()
