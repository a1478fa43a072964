"""A step of partial training against a step that trains every layer: ResNet-18 on images of CIFAR-10's shape.

Each contender takes natural steps of SGD with momentum on one batch: `full` in all layers, the others in the second
stage of a code and a cutoff. With N1N2 the early layers are kept and run without a graph; with N2N1 the late ones are
kept, and only the gradient of their inputs is computed. A turn is a step of each. Operations are counted by torch's
counter in a step of its own: the share that is left is what a step would need if time went by them alone;
normalisation, activations and the optimizer come on top. An attack looks through all layers, so its part of an
adversarial step is never less.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from statistics import median

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.timing import Comparison, alternate, options, report
from lit_robust.nn import CIFARResNet18
from lit_robust.regimes.partial_layers import Code, PartialLayers, partial_layers

CODES: tuple[Code, ...] = ("N1N2", "N2N1")
CUTOFFS = ("layer2.0.conv1", "layer3.0.conv1", "layer4.0.conv1", "linear")
SLACK = 1.15  # how far above its share of operations the time of a step may be


class Contender:
    """A network that trains on one batch, again and again.

    Args:
        division: The code and the cutoff, or None to train all layers.
        width: Multiplier of the channels.
        batch: Images in the batch.
    """

    def __init__(self, division: tuple[Code, str] | None, *, width: float, batch: int) -> None:
        torch.manual_seed(0)
        self.network = CIFARResNet18(width=width)
        self.layers: PartialLayers | None = None
        if division is not None:
            self.layers = partial_layers(self.network, division[0], cutoff=division[1])
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.01, momentum=0.9, weight_decay=2e-4)
        self.x, self.y = torch.rand(batch, 3, 32, 32), torch.randint(10, (batch,))

    def step(self) -> None:
        """One step, as the regime takes it."""
        with self._frozen():
            loss = F.cross_entropy(self.network(self.x), self.y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def operations(self) -> int:
        """Floating-point operations of the convolutions and matrix products of a step."""
        with FlopCounterMode(display=False) as counter:
            self.step()
        total: int = counter.get_total_flops()
        return total

    def _frozen(self) -> AbstractContextManager[None]:
        return nullcontext() if self.layers is None else self.layers.frozen(self.network)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="turns that count; one more comes before them")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    width, batch, rounds = (0.125, 8, 2) if given.smoke else (1.0, 128, given.rounds)
    divisions = {f"{code} at {cutoff}": (code, cutoff) for code in CODES for cutoff in CUTOFFS}
    make = partial(Contender, width=width, batch=batch)
    contenders = {"full": make(None)} | {name: make(division) for name, division in divisions.items()}
    turns: dict[str, Callable[[], object]] = {name: contender.step for name, contender in contenders.items()}
    seconds = alternate(turns, rounds=rounds)
    counts = {name: contender.operations() for name, contender in contenders.items()}
    times = {name: median(values) for name, values in seconds.items()}
    comparisons = [
        Comparison(
            name=f"partial_step, {name}, {counts[name] / counts['full']:.3f} of the operations",
            ratio=times[name] / times["full"],
            target=SLACK * counts[name] / counts["full"],
            bound="at most",
            ours=times[name],
            theirs=times["full"],
            unit="s",
        )
        for name in divisions
    ]
    figures = {"batch": batch, "width": width, "seconds": seconds, "operations": counts}
    report(__spec__.name, comparisons, figures, given)


if __name__ == "__main__":
    main()
