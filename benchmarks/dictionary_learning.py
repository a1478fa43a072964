"""Learning a dictionary in the Trainer against scikit-learn's own loop over the same patches.

500 atoms of 4×4 pixels in colour, 1,000 mini-batches of 5 patches of the training images of CIFAR-10, or of a folder of
images (`--cifar FOLDER`), as `dictionary_cifar10.yaml`. Ours has the package's data module, its regime, its metrics
file, progress bar and checkpoints, and the options that lie under every config. The two take turns, a step of 20
mini-batches each; scikit-learn's loop has the same patches as an array already, and the same start.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median

import lightning.pytorch as pl
import torch

from benchmarks.interleave import Interleave, shipped_options
from benchmarks.timing import Comparison, options, report
from lit_robust import sampling
from lit_robust.callbacks import AtomicCheckpointIO, AttackProgressBar, Checkpoints
from lit_robust.data import CIFAR10, ImageData, ImageFolder
from lit_robust.data.patches import random_patches
from lit_robust.loggers import MetricsFile
from lit_robust.nn.dictionary import PatchAtoms
from lit_robust.regimes.dictionary_learning import DictionaryLearning

IMAGES, MINI_BATCH = 100, 5  # a step


class PlainLoop:
    """scikit-learn's loop.

    Args:
        data: The data module, whose batches give the patches.
        atoms: Number of atoms.
    """

    def __init__(self, data: ImageData, atoms: int) -> None:
        from sklearn.decomposition import MiniBatchDictionaryLearning

        batches = []
        for x, _, index in data.train_dataloader():
            noise = sampling.Noise(sampling.keys(index))
            batches.append(random_patches(x.double() / 255, noise, patch=4, stride=2).flatten(1))
        start = torch.linalg.svd(torch.cat(batches)[:1000], full_matrices=False).Vh
        self.steps = [batch.numpy() for batch in batches]
        self.learner = MiniBatchDictionaryLearning(atoms, n_jobs=1, dict_init=start.numpy(), random_state=0)
        self.done = 0

    def step(self) -> None:
        """The mini-batches of one step."""
        rows = self.steps[self.done % len(self.steps)]
        for at in range(0, len(rows) - MINI_BATCH + 1, MINI_BATCH):
            self.learner.partial_fit(rows[at : at + MINI_BATCH])
        self.done += 1


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--cifar", help="folder of images, train/CLASS and test/CLASS, instead of CIFAR-10's own files")
    parser.add_argument("--steps", type=int, default=50, help="steps of 20 mini-batches each")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    steps, atoms = (3, 60) if given.smoke else (given.steps, 500)
    own = {"batch_size": IMAGES, "val_split": 0}
    data = ImageFolder(root=given.cifar, **own) if given.cifar else CIFAR10(root=given.root, download=False, **own)
    turns = Interleave(PlainLoop(data, atoms).step, "batch")
    regime = DictionaryLearning(PatchAtoms(atoms), mini_batches=steps * IMAGES // MINI_BATCH, mini_batch=MINI_BATCH)
    shipped = shipped_options()
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            **{
                **shipped,
                "logger": MetricsFile(Path(folder)),
                "callbacks": [turns, AttackProgressBar(), Checkpoints(select="last", every_n_steps=5)],
                "plugins": [AtomicCheckpointIO()],
                "enable_model_summary": False,
                "default_root_dir": folder,
            }
        )
        trainer.fit(regime, datamodule=data)
    ours, theirs = sum(turns.ours), sum(turns.theirs)
    time = Comparison(
        name="dictionary_learning", ratio=ours / theirs, target=1.1, bound="at most", ours=ours, theirs=theirs, unit="s"
    )
    per_mini_batch = median(turns.theirs) * MINI_BATCH / IMAGES
    print(f"scikit-learn takes {1000 * per_mini_batch:.1f} ms a mini-batch of {MINI_BATCH}")
    figures = {"atoms": atoms, "seconds": {"ours": turns.ours, "theirs": turns.theirs}, "mini_batch": per_mini_batch}
    report(__spec__.name, [time], figures, given, ["lightning", "scikit-learn"])


if __name__ == "__main__":
    main()
