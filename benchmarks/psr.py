"""Perturbation-to-signal ratio at all convolutions of VGG-16: 1,000 images of CIFAR-10's shape.

Ours is what `LayerPSR` computes once the attack has run: the ratios of each image in L1, L2 and L∞ at 13 layers. Theirs
is the two forward passes that it needs, of the clean and of the perturbed images. Both in blocks of 100.

Memory is the peak of whole tests in processes of their own: a `Trainer` with `LayerPSR` under uniform noise, which
costs nothing, on 1,000 and on 4,000 images.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from statistics import median

import lightning.pytorch as pl
import torch
from torch import Tensor

from benchmarks.timing import Comparison, alternate, fresh_process, options, peak_memory, report
from lit_robust import sampling
from lit_robust.attacks import UniformNoise
from lit_robust.callbacks.layer_psr import LayerPSR, layer_ratios
from lit_robust.data.base import ImageData
from lit_robust.data.images import Images
from lit_robust.evaluation.full_block import FullBlock
from lit_robust.nn import VGG16
from lit_robust.regimes import Natural
from lit_robust.sampling import Noise
from lit_robust.taps import convolutions

EPS = 8 / 255


class RandomImages(ImageData):
    """Random pixels in the shape of CIFAR-10.

    Args:
        count: Images of the test set.
        block: Images of a block.
    """

    native_shape = (3, 32, 32)
    classes = tuple("0123456789")

    def __init__(self, count: int, block: int) -> None:
        super().__init__(eval_batch_size=block)
        self.count = count

    def load(self, train: bool) -> Images:
        """As many for training, which is not done."""
        generator = torch.Generator().manual_seed(int(train))
        x = torch.randint(256, (self.count, *self.native_shape), generator=generator, dtype=torch.uint8)
        return Images(x, torch.randint(10, (self.count,), generator=generator), self.classes)


class Contenders:
    """Both measure the same blocks.

    Args:
        images: Number of images.
        block: Images of a block.
        width: Multiplier of the channels.
    """

    def __init__(self, images: int, block: int, width: float) -> None:
        torch.manual_seed(0)
        self.network = VGG16(width=width).eval()
        self.layers = convolutions(self.network)
        self.pairs = [self._pair(start, block) for start in range(0, images, block)]

    def _pair(self, start: int, size: int) -> tuple[FullBlock, Tensor]:
        x, index = torch.rand(size, 3, 32, 32), torch.arange(start, start + size)
        block = FullBlock(self.network, x, torch.zeros_like(index), index, Noise(sampling.keys(index)), size)
        return block, (x + EPS * (2 * torch.rand_like(x) - 1)).clamp(0, 1)

    def ratios(self) -> None:
        """All ratios."""
        for block, perturbed in self.pairs:
            layer_ratios(block, perturbed, self.layers, ["l2", "l1", "linf"])

    def passes(self) -> None:
        """The forward passes alone."""
        for block, perturbed in self.pairs:
            block.logits(block.x)
            block.logits(perturbed)


def whole_test(images: int, block: int, width: float) -> None:
    """A test of a trainer, with the measurement and all that it writes."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        trainer = pl.Trainer(
            default_root_dir=folder,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            callbacks=[LayerPSR(attack=UniformNoise(amplitude=EPS))],
        )
        trainer.test(Natural(VGG16(width=width)), datamodule=RandomImages(images, block), verbose=False)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="turns that count; one more comes before them")
    parser.add_argument("--images", nargs=2, type=int, default=[1000, 4000], help="of the smaller and the larger test")
    parser.add_argument("--test", type=int, help="runs one test of so many images, and prints its peak memory")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    width, block, rounds, counts = (0.125, 4, 2, [8, 16]) if given.smoke else (1.0, 100, given.rounds, given.images)
    if given.test:
        before = peak_memory()
        whole_test(given.test, block, width)
        print(json.dumps({"before": before, "peak": peak_memory()}))
        return
    same = ["--threads", str(given.threads), *(["--smoke"] if given.smoke else [])]
    found = {n: fresh_process(__spec__.name, f"--test={n}", *same) for n in counts}
    small, large = (found[n]["peak"] / 2**20 for n in counts)
    contenders = Contenders(counts[0], block, width)
    seconds = alternate({"ours": contenders.ratios, "theirs": contenders.passes}, rounds=rounds)
    ours, theirs = (median(seconds[who]) for who in ("ours", "theirs"))
    comparisons = [
        Comparison(
            name=f"psr, {counts[0]:,} images, {len(contenders.layers)} layers against two forward passes",
            ratio=ours / theirs,
            target=1.3,
            bound="at most",
            ours=ours,
            theirs=theirs,
            unit="s",
        ),
        Comparison(
            name=f"psr, peak memory, {counts[1]:,} against {counts[0]:,} images",
            ratio=large / small,
            target=1.1,
            bound="at most",
            ours=large,
            theirs=small,
            unit="MiB",
        ),
    ]
    figures = {"block": block, "width": width, "seconds": seconds, "peak_bytes": {str(n): f for n, f in found.items()}}
    report(__spec__.name, comparisons, figures, given, ["lightning"])


if __name__ == "__main__":
    main()
