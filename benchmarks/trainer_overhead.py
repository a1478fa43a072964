"""An epoch in the Trainer against an epoch of a plain loop: the small CNN on Fashion-MNIST in batches of 128, Adam.

The Trainer has the package's data module, its natural regime, its metrics file and progress bar, and the options that
lie under every config. The plain loop permutes the same bytes in memory, slices, divides by 255 and steps. Neither
validates nor saves checkpoints. The two take turns, an epoch each.
"""

from __future__ import annotations

import tempfile
from itertools import islice
from pathlib import Path
from statistics import median

import lightning.pytorch as pl
import torch
import torch.nn.functional as F

from benchmarks.interleave import Interleave, shipped_options
from benchmarks.subjects import pixels
from benchmarks.timing import Comparison, options, report
from lit_robust.callbacks import AttackProgressBar
from lit_robust.data import FashionMNIST, Images
from lit_robust.loggers import MetricsFile
from lit_robust.nn import SmallCNN
from lit_robust.regimes import Natural

BATCH = 128


class PlainLoop:
    """What one would write without a framework.

    Args:
        images: The training set.
        batches: Batches an epoch; None for all.
    """

    def __init__(self, images: Images, batches: int | None) -> None:
        self.images = images
        self.batches = batches
        self.model = SmallCNN().train()
        self.optimizer = torch.optim.Adam(self.model.parameters())

    def epoch(self) -> None:
        """Trains for one epoch."""
        for index in islice(torch.randperm(len(self.images)).split(BATCH), self.batches):
            x, y = pixels(self.images.x.index_select(0, index)), self.images.y.index_select(0, index)
            loss = F.cross_entropy(self.model(x), y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="epochs that count; one more comes before them")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rounds, batches = (2, 5) if given.smoke else (given.rounds, None)
    torch.manual_seed(0)
    data = FashionMNIST(root=given.root, download=False, batch_size=BATCH, val_split=0)
    turns = Interleave(PlainLoop(data.images(train=True), batches).epoch, "epoch")
    shipped = shipped_options()
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            **{
                **shipped,
                "max_epochs": rounds + 1,
                "limit_train_batches": batches,
                "logger": MetricsFile(Path(folder)),
                "callbacks": [turns, AttackProgressBar()],
                "enable_checkpointing": False,
                "enable_model_summary": False,
                "default_root_dir": folder,
            }
        )
        trainer.fit(Natural(SmallCNN()), datamodule=data)
    ours, theirs = median(turns.ours), median(turns.theirs)
    overhead = Comparison(
        name="trainer_overhead", ratio=ours / theirs, target=1.08, bound="at most", ours=ours, theirs=theirs, unit="s"
    )
    figures = {"batch": BATCH, "trainer": shipped, "seconds": {"ours": turns.ours, "theirs": turns.theirs}}
    report(__spec__.name, [overhead], figures, given, ["lightning", "torchvision"])


if __name__ == "__main__":
    main()
