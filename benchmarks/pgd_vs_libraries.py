"""PGD-10 in L∞ on models in eval mode, against torchattacks and foolbox: time, and whether the images are the same.

All three take the same steps of eps/4. Times are with a random start. Of foolbox only the search is timed: its call
would add a forward pass that says what was broken. The images are compared with a clean start, where they ought to be
equal; a pixel counts as identical within 1e-5, since the three round differently.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from statistics import median
from typing import Any

import foolbox
import torch
import torchattacks
from foolbox.criteria import Misclassification
from torch import Tensor, nn

from benchmarks.subjects import calibrated_vgg, cifar10_test, fashion, pixels, trained_small_cnn
from benchmarks.timing import Comparison, alternate, options, report, speedup
from lit_robust.attacks import PGD
from lit_robust.data import Images
from lit_robust.threat import ThreatModel

SAME = 1e-5


@dataclass(frozen=True)
class Case:
    """A model, a batch of images and a radius, with the speed that ours is to have against each library."""

    name: str
    model: nn.Module
    x: Tensor
    y: Tensor
    eps: Fraction
    targets: dict[str, float]

    def searches(self, *, steps: int, random_start: bool) -> dict[str, Callable[[], Tensor]]:
        """The three searches."""
        model, x, y, eps, step = self.model, self.x, self.y, float(self.eps), float(self.eps / 4)
        ours = PGD(
            threat=ThreatModel(self.eps), steps=steps, step_size="eps/4", start="random" if random_start else "clean"
        )
        torchattacks_pgd = torchattacks.PGD(model, eps=eps, alpha=step, steps=steps, random_start=random_start)
        foolbox_pgd = foolbox.attacks.LinfPGD(abs_stepsize=step, steps=steps, random_start=random_start)
        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
        return {
            "ours": lambda: ours(model, x, y),
            "torchattacks": lambda: torchattacks_pgd(x, y),
            "foolbox": lambda: foolbox_pgd.run(wrapped, x, Misclassification(y), epsilon=eps),
        }


def cases(given: argparse.Namespace) -> list[Case]:
    smoke: bool = given.smoke
    cifar, clothes = cifar10_test(given.root, given.cifar), fashion(given.root, train=False)
    vgg = calibrated_vgg(cifar, width=0.125 if smoke else 1, batches=2 if smoke else 10)
    cnn = trained_small_cnn(fashion(given.root, train=True), steps=10 if smoke else 400)
    few, more = (4, 8) if smoke else (64, 256)
    return [
        Case("VGG-16", vgg, *batch(cifar, few), Fraction(8, 255), {"torchattacks": 0.97, "foolbox": 1.4}),
        Case("small CNN", cnn, *batch(clothes, more), Fraction(1, 10), {"torchattacks": 0.97, "foolbox": 1.15}),
    ]


def batch(images: Images, size: int) -> tuple[Tensor, Tensor]:
    # At random, since a folder of images is in the order of its classes.
    index = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:size]
    return pixels(images.x[index]), images.y[index]


def accuracy(case: Case, x: Tensor) -> float:
    with torch.no_grad():
        return (case.model(x).argmax(1) == case.y).double().mean().item()


def measure(case: Case, *, steps: int, rounds: int) -> tuple[list[Comparison], dict[str, Any]]:
    seconds = alternate(case.searches(steps=steps, random_start=True), rounds=rounds)
    found = {name: search() for name, search in case.searches(steps=steps, random_start=False).items()}
    right = {name: accuracy(case, x) for name, x in found.items()}
    comparisons = []
    for library, target in case.targets.items():
        timed = speedup(f"pgd_vs_libraries, {case.name}, {library}", seconds["ours"], seconds[library], target=target)
        same = Comparison(
            name=f"pgd_vs_libraries, {case.name}, {library}, pixels identical",
            ratio=((found["ours"] - found[library]).abs() < SAME).double().mean().item(),
            target=0.97,
            ours=right["ours"],
            theirs=right[library],
            unit="of images right",
        )
        comparisons += [timed, same]
    images_per_second = {name: len(case.x) / median(times) for name, times in seconds.items()}
    return comparisons, {
        "batch": len(case.x),
        "steps": steps,
        "eps": str(case.eps),
        "seconds": seconds,
        "images_per_second": images_per_second,
        "accuracy": {"clean": accuracy(case, case.x), **right},
    }


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--cifar", help="folder of image files with test/CLASS (default: CIFAR-10 below the data root)")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    comparisons, figures = [], {}
    for case in cases(given):
        made, figures[case.name] = measure(case, steps=10, rounds=1 if given.smoke else given.rounds)
        comparisons += made
    report(__spec__.name, comparisons, figures, given, ["torchvision", "torchattacks", "foolbox"])


if __name__ == "__main__":
    main()
