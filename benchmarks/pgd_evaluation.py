"""PGD-10 in an evaluation against torchattacks' PGD: images a second on VGG-16 and ResNet-18, on a CPU.

Three comparisons a network, since torchattacks neither stops where it has won nor looks at what it returns:

- the search alone, on the copy that evaluation searches on (batch normalisation folded, channels last): equal steps;
- the whole evaluation with its checks on the network itself, no sample leaving early: equal steps and more passes;
- the whole evaluation as `test` runs it: broken samples leave.

The making of the copy is in the time of the last two. The networks are trained here for some steps, and both attack
images that they classify correctly.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torchattacks
from torch import Tensor, nn

from benchmarks.subjects import cifar10_test, cifar10_train, pixels, trained
from benchmarks.timing import alternate, options, report, speedup
from lit_robust.attacks import PGD
from lit_robust.evaluation import evaluate_block
from lit_robust.evaluation.fast_copy import fast_copy
from lit_robust.nn import VGG16, CIFARResNet18
from lit_robust.threat import ThreatModel

NETWORKS: dict[str, type[nn.Module]] = {"VGG-16": VGG16, "ResNet-18": CIFARResNet18}


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--cifar", help="folder of image files with test/CLASS (default: CIFAR-10 below the data root)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100, help="training steps of 128 images")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    train, test = cifar10_train(given.root, given.cifar), cifar10_test(given.root, given.cifar)
    size, blocks, width, steps = (4, 1, 0.125, 1) if given.smoke else (64, 2, 1.0, given.steps)
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))  # a folder is sorted by class
    comparisons, figures = [], {}
    for name, kind in NETWORKS.items():
        torch.manual_seed(0)
        model = trained(kind(width=width), train, steps=steps)
        images = pixels(test.x[order[: 8 * size * blocks]])
        with torch.no_grad():
            labels = torch.cat([model(part).argmax(1) for part in images.split(size)])
        right = labels == test.y[order[: 8 * size * blocks]]
        x, y = (images, labels) if given.smoke else (images[right], labels[right])
        x, y = x[: size * blocks], y[: size * blocks]
        seconds = alternate(contenders(model, x, y, size), rounds=1 if given.smoke else given.rounds)
        theirs = seconds["torchattacks"]
        comparisons += [
            speedup(f"pgd_evaluation, {name}, {what}", seconds[what], theirs, target=target)
            for what, target in (("search", 1.15), ("all checks, none leaves", 1.0), ("as in a test", 1.15))
        ]
        figures[name] = {"images": len(x), "batch": size, "seconds": seconds}
    report(__spec__.name, comparisons, figures, given, ["torchattacks"])


def contenders(model: nn.Module, x: Tensor, y: Tensor, size: int) -> dict[str, Callable[[], object]]:
    """Functions that attack all images in batches."""
    attack = PGD(threat=ThreatModel("8/255"), steps=10, step_size="2/255")
    library = torchattacks.PGD(model, eps=8 / 255, alpha=2 / 255, steps=10)
    rows = torch.arange(len(x)).split(size)
    made = fast_copy(model, x[:size]) or model

    def evaluated(leave: bool) -> None:
        copy = fast_copy(model, x[:size])
        random = None  # a test finds out with its first block
        for part in rows:
            result = evaluate_block(
                model, x[part], y[part], part, {"pgd": attack}, size=size, leave=leave, copy=copy, random=random
            )
            random = result.random

    return {
        "search": lambda: [attack(made, x[part], y[part], key=part) for part in rows],
        "all checks, none leaves": lambda: evaluated(leave=False),
        "as in a test": lambda: evaluated(leave=True),
        "torchattacks": lambda: [library(x[part], y[part]) for part in rows],
    }


if __name__ == "__main__":
    main()
