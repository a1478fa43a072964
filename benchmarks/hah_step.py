"""HaH against its baseline: VGG-16 at full width, batches of 128 images of CIFAR-10's shape.

Ours is `HaHVGG16` with six HaH blocks and their costs, theirs the same network with none: standard blocks of
weight-normalised convolution, ReLU and batch normalisation. The two take turns, a training step (Adam) or a forward
pass in eval mode each. `plain` is HaH with the cost taken of `taps[...].local()`, which computes each convolution
twice. Peak memory is what a process of its own grows by in two training steps.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.timing import Comparison, alternate, fresh_process, options, peak_memory, report
from lit_robust.nn import HaHVGG16
from lit_robust.nn.hah_block import hah_blocks
from lit_robust.nn.hebbian_cost import Hebbian
from lit_robust.nn.layer_costs import ALPHAS, HebbianCost
from lit_robust.taps import Taps


class Contender:
    """A network that trains on one batch, again and again.

    Args:
        blocks: Number of HaH blocks.
        width: Multiplier of the channels.
        batch: Images in the batch.
    """

    def __init__(self, blocks: int, *, width: float, batch: int) -> None:
        torch.manual_seed(0)
        self.network = HaHVGG16(hah_blocks=blocks, width=width)
        self.optimizer = torch.optim.Adam(self.network.parameters())
        self.x = torch.rand(batch, 3, 32, 32)
        self.y = torch.randint(10, (batch,))

    def train(self) -> None:
        """One step, with the Hebbian costs of all HaH blocks."""
        self.network.train()
        with HebbianCost().collecting(self.network) as terms:
            loss = F.cross_entropy(self.network(self.x), self.y)
            self._update(sum(terms().values(), start=loss))

    def train_plainly(self) -> None:
        """One step with the costs of activations that are computed again from detached inputs."""
        self.network.train()
        named = hah_blocks(self.network)
        with Taps(self.network, [f"{name}.conv" for name, _ in named]) as taps:
            loss = F.cross_entropy(self.network(self.x), self.y)
            for (name, _), alpha in zip(named, ALPHAS, strict=False):
                loss = loss + Hebbian(alpha=alpha).cost(F.relu(taps[f"{name}.conv"].local()))
            self._update(loss)

    def infer(self) -> Tensor:
        """Logits in eval mode."""
        self.network.eval()
        with torch.no_grad():
            logits: Tensor = self.network(self.x)
        return logits

    def _update(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def memory(contender: Contender) -> dict[str, int]:
    before = peak_memory()
    for _ in range(2):
        contender.train()
    return {"before": before, "peak": peak_memory()}


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="turns that count; one more comes before them")
    parser.add_argument("--memory", choices=["ours", "theirs"], help="only print the peak memory of one of the two")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    width, batch, rounds = (0.125, 8, 2) if given.smoke else (1, 128, given.rounds)
    blocks = {"ours": 6, "theirs": 0}
    if given.memory:
        print(json.dumps(memory(Contender(blocks[given.memory], width=width, batch=batch))))
        return
    name = __spec__.name
    same = ["--threads", str(given.threads), *(["--smoke"] if given.smoke else [])]
    peaks = {who: fresh_process(name, "--memory", who, *same) for who in blocks}
    grown = {who: (peak["peak"] - peak["before"]) / 2**20 for who, peak in peaks.items()}
    ours, theirs = (Contender(n, width=width, batch=batch) for n in blocks.values())
    turns: dict[str, Callable[[], object]] = {
        "train ours": ours.train,
        "train theirs": theirs.train,
        "train plain": ours.train_plainly,
    }
    seconds = alternate(turns, rounds=rounds)
    seconds |= alternate({"infer ours": ours.infer, "infer theirs": theirs.infer}, rounds=rounds)
    comparisons = [
        _ratio("training step", seconds["train ours"], seconds["train theirs"], 1.5),
        _ratio("inference", seconds["infer ours"], seconds["infer theirs"], 1.45),
        Comparison(
            name="hah_step, peak memory",
            ratio=grown["ours"] / grown["theirs"],
            target=1.5,
            bound="at most",
            **grown,
            unit="MiB",
        ),
    ]
    plain = median(seconds["train plain"]) / median(seconds["train theirs"])
    print(f"the plain form takes {plain:.2f} times the baseline's step")
    figures = {"batch": batch, "width": width, "seconds": seconds, "plain_ratio": plain, "peak_bytes": peaks}
    report(name, comparisons, figures, given)


def _ratio(what: str, ours: list[float], theirs: list[float], target: float) -> Comparison:
    a, b = median(ours), median(theirs)
    return Comparison(name=f"hah_step, {what}", ratio=a / b, target=target, bound="at most", ours=a, theirs=b, unit="s")


if __name__ == "__main__":
    main()
