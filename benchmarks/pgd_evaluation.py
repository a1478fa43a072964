"""PGD-10 in an evaluation against torchattacks' PGD: images a second on VGG-16 and ResNet-18, on a CPU.

The evaluation searches on a copy of the network (batch normalisation folded, channels last) and judges each image on
the network itself afterwards; that is in its time, as the making of the copy is. No sample leaves early in either, so
the ratio is one of equal numbers of steps. The networks have random weights, and batch normalisation that has seen
some images.
"""

from __future__ import annotations

import torch
import torchattacks
from torch import nn

from benchmarks.subjects import calibrated, cifar10_test, pixels
from benchmarks.timing import alternate, options, report, speedup
from lit_robust.attacks import PGD
from lit_robust.evaluation import evaluate_block
from lit_robust.evaluation.fast_copy import fast_copy
from lit_robust.nn import VGG16, CIFARResNet18
from lit_robust.threat import ThreatModel


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--cifar", help="folder of image files with test/CLASS (default: CIFAR-10 below the data root)")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    images = cifar10_test(given.root, given.cifar)
    size, blocks, width = (4, 1, 0.125) if given.smoke else (64, 2, 1.0)
    comparisons, figures = [], {}
    networks: dict[str, type[nn.Module]] = {"VGG-16": VGG16, "ResNet-18": CIFARResNet18}
    for name, kind in networks.items():
        model = calibrated(kind, images, width=width, batches=2 if given.smoke else 10)
        x = pixels(images.x[: size * blocks])
        with torch.no_grad():
            y = torch.cat([model(part).argmax(1) for part in x.split(size)])  # all right, so that all are attacked
        attack = PGD(threat=ThreatModel("8/255"), steps=10, step_size="2/255")
        theirs = torchattacks.PGD(model, eps=8 / 255, alpha=2 / 255, steps=10)

        def ours(model: nn.Module = model, x: torch.Tensor = x, y: torch.Tensor = y, attack: PGD = attack) -> None:
            copy = fast_copy(model, x[:size])
            for rows in torch.arange(len(x)).split(size):
                options = {"size": size, "leave": False, "copy": copy}
                evaluate_block(model, x[rows], y[rows], rows, {"pgd": attack}, **options)

        def library(x: torch.Tensor = x, y: torch.Tensor = y, attack: torchattacks.PGD = theirs) -> None:
            for rows in torch.arange(len(x)).split(size):
                attack(x[rows], y[rows])

        rounds = 1 if given.smoke else given.rounds
        seconds = alternate({"ours": ours, "torchattacks": library}, rounds=rounds)
        comparisons.append(speedup(f"pgd_evaluation, {name}", seconds["ours"], seconds["torchattacks"], target=1.15))
        figures[name] = {"images": len(x), "batch": size, "seconds": seconds}
    report(__spec__.name, comparisons, figures, given, ["torchvision", "torchattacks"])


if __name__ == "__main__":
    main()
