"""A step of adversarial training: VGG-16, PGD-10, batches of 128 images of CIFAR-10's shape, SGD with momentum.

Ours is the adversarial regime in a Trainer; theirs a plain loop whose PGD takes its gradients by `autograd.grad`. Both
attack the network in eval mode. The two take turns, a step each. Peak memory is what a process of its own grows by over
what it had before training, so that imports and data, which are the same, do not hide a difference.
"""

from __future__ import annotations

import json
import warnings
from functools import partial
from itertools import cycle
from statistics import median

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.interleave import Interleave, shipped_options
from benchmarks.subjects import RandomData, pixels
from benchmarks.timing import Comparison, fresh_process, options, peak_memory, report
from lit_robust.attacks import PGD
from lit_robust.nn import VGG16
from lit_robust.regimes import AdversarialTraining
from lit_robust.threat import ThreatModel

EPS, STEP = 8 / 255, 2 / 255
SGD = partial(torch.optim.SGD, lr=0.01, momentum=0.9, weight_decay=5e-4)


class PlainLoop:
    """What one would write without a framework.

    Args:
        data: Where the images come from.
        width: Multiplier of the network's channels.
        steps: Steps of the attack.
    """

    def __init__(self, data: RandomData, *, width: float, steps: int) -> None:
        self.images = data.images(train=True)
        self.steps = steps
        self.model = VGG16(width=width)
        self.optimizer = SGD(self.model.parameters())
        self.order = cycle(torch.randperm(len(self.images)).split(data.batch_size))

    def step(self) -> None:
        """Trains on one batch."""
        index = next(self.order)
        x, y = pixels(self.images.x.index_select(0, index)), self.images.y.index_select(0, index)
        self.model.eval()
        x_adv = self.attacked(x, y)
        self.model.train()
        loss = F.cross_entropy(self.model(x_adv), y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def attacked(self, x: Tensor, y: Tensor) -> Tensor:
        """PGD in L∞ from a random start."""
        x_adv = (x + torch.empty_like(x).uniform_(-EPS, EPS)).clamp(0, 1)
        for _ in range(self.steps):
            x_adv.requires_grad_()
            (grad,) = torch.autograd.grad(F.cross_entropy(self.model(x_adv), y), x_adv)
            x_adv = x_adv.detach() + STEP * grad.sign()
            x_adv = (x + (x_adv - x).clamp(-EPS, EPS)).clamp(0, 1)
        return x_adv


def fit(data: RandomData, *, width: float, steps: int, batches: int, callbacks: list[pl.Callback]) -> None:
    attack = PGD(threat=ThreatModel("8/255"), steps=steps, step_size="2/255")
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    wanted = {"max_epochs": 1, "limit_train_batches": batches, "callbacks": callbacks}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a Trainer without a logger
        trainer = pl.Trainer(**{**shipped_options(), **quiet, **wanted})
        trainer.fit(AdversarialTraining(VGG16(width=width), attack=attack, optimizer=SGD), datamodule=data)


def memory(who: str, data: RandomData, *, width: float, steps: int) -> dict[str, int]:
    data.images(train=True)
    before = peak_memory()
    if who == "ours":
        fit(data, width=width, steps=steps, batches=2, callbacks=[])
    else:
        loop = PlainLoop(data, width=width, steps=steps)
        for _ in range(2):
            loop.step()
    return {"before": before, "peak": peak_memory()}


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="steps that count; one more comes before them")
    parser.add_argument("--memory", choices=["ours", "theirs"], help="only print the peak memory of one of the two")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    width, steps, batch, rounds = (0.125, 2, 8, 2) if given.smoke else (1, 10, 128, given.rounds)
    data = RandomData(count=batch * (rounds + 1), batch_size=batch)
    if given.memory:
        print(json.dumps(memory(given.memory, data, width=width, steps=steps)))
        return
    name = __spec__.name
    same = ["--threads", str(given.threads), "--rounds", str(given.rounds), *(["--smoke"] if given.smoke else [])]
    peaks = {who: fresh_process(name, "--memory", who, *same) for who in ("ours", "theirs")}
    grown = {who: (peak["peak"] - peak["before"]) / 2**20 for who, peak in peaks.items()}
    turns = Interleave(PlainLoop(data, width=width, steps=steps).step, "batch")
    fit(data, width=width, steps=steps, batches=rounds + 1, callbacks=[turns])
    speed = {"ours": batch / median(turns.ours), "theirs": batch / median(turns.theirs)}
    ratio = speed["ours"] / speed["theirs"]
    pace = Comparison(name="training_step", ratio=ratio, target=0.97, **speed, unit="images/s")
    room = Comparison(
        name="training_step, peak memory",
        ratio=grown["ours"] / grown["theirs"],
        target=1.1,
        bound="at most",
        **grown,
        unit="MiB",
    )
    seconds = {"ours": turns.ours, "theirs": turns.theirs}
    figures = {"batch": batch, "steps": steps, "seconds": seconds, "images_per_second": speed, "peak_bytes": peaks}
    report(name, [pace, room], figures, given, ["lightning"])


if __name__ == "__main__":
    main()
