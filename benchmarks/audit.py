"""Verdicts of the audit on honest and on masked small CNNs for Fashion-MNIST, and the time of one audit.

Three models are masked on purpose, each for one check; three more are masked in ways that the checks were not written
for; natural training, PGD training and TRADES are honest. The polarizing network is audited through each combination of
backward passes that its quantiser offers. The audits of runs (HaH, sparse coding) are made with the command itself.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.subjects import MODELS, pixels, stored_small_cnn
from benchmarks.timing import Comparison, options, report
from lit_robust import sampling
from lit_robust.attacks.combinations import combinations, labels
from lit_robust.audit import Credibility, Effort
from lit_robust.data import FashionMNIST
from lit_robust.evaluation.full_block import FullBlock
from lit_robust.nn import AdditiveNoise, Pipeline, PolarizingFrontEnd, SmallCNN
from lit_robust.sampling import Noise

EPS = 0.1
BUDGET = 300.0  # seconds for 500 images
SMOKE = Effort(
    steps=2, auto_steps=2, restarts=2, queries=5, points=2, draws=1, most_combinations=2, substitute_images=100
)


class TimesLogits(nn.Module):
    """Logits times a number: the same predictions, and a cross-entropy whose gradient vanishes in float32."""

    def __init__(self, network: nn.Module, factor: float) -> None:
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes)."""
        logits: Tensor = self.factor * self.network(x)
        return logits


class RandomWiggle(nn.Module):
    """x + a · sin(f x + a random phase): a small noise, whose slope of a draw hides the slope of 1 that is their mean.

    Args:
        amplitude: a, in units of the pixel range.
        slope: a · f.
    """

    def __init__(self, amplitude: float, slope: float) -> None:
        super().__init__()
        self.amplitude, self.frequency = amplitude, slope / amplitude

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) with a wave on them."""
        phase = 2 * math.pi * sampling.layer_uniform(x)
        return x + self.amplitude * torch.sin(self.frequency * x + phase)


class Rounded(nn.Module):
    """Images rounded to some levels, with a gradient of 0."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.highest = levels - 1

    def forward(self, x: Tensor) -> Tensor:
        """Rounded images (N, C, H, W)."""
        return (x * self.highest).round() / self.highest


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model to audit.

    Attributes:
        kind: `honest`, `masked` (made to be failed), `unseen` (the checks were not written for it) or `defense`.
        make: Makes the network.
        fails: The check that has to fail it; None for no such check.
        effort: How hard it is attacked; None for the audit's own.
        backward: Backward passes that the attacks go through.
    """

    kind: str
    make: Callable[[], nn.Module]
    fails: str | None = None
    effort: Effort | None = None
    backward: Mapping[str, str] = field(default_factory=dict)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--images", type=int, default=500, help="test images of each audit")
    parser.add_argument("--only", nargs="*", help="names of the models to audit (default: all)")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    images = 20 if given.smoke else given.images
    data = FashionMNIST(root=given.root, download=False, eval_batch_size=min(100, images))
    figures: dict[str, Any] = {}
    for name, subject in subjects().items():
        if given.only and name not in given.only:
            continue
        effort = SMOKE if given.smoke else subject.effort
        audit = Credibility(eps=EPS, images=images, effort=effort, backward=subject.backward)
        started = time.perf_counter()
        content = audited(audit, subject.make(), data, images)
        seconds = time.perf_counter() - started
        figures[name] = {"kind": subject.kind, "fails": subject.fails, "seconds": seconds, **content}
        shown = ", ".join(f"{f['check']} {f['verdict']}" for f in content["findings"] if f["verdict"] != "pass")
        print(f"{name}: {content['verdict']} in {seconds:.0f} s ({shown})", flush=True)
    timed = [name for name in ("pgd_at_small", "natural_small") if name in figures]
    report(__spec__.name, [budget(name, figures[name]["seconds"], images) for name in timed], figures, given)


def budget(name: str, seconds: float, images: int) -> Comparison:
    """The time of an audit against what it may take."""
    allowed = BUDGET * images / 500
    label = f"audit, {name}, {images} images"
    return Comparison(
        name=label, ratio=seconds / allowed, target=1, bound="at most", ours=seconds, theirs=allowed, unit="s"
    )


def subjects() -> dict[str, Subject]:
    """All models, by name."""
    honest = {
        name: Subject(kind="honest", make=small(name)) for name in ("natural_small", "pgd_at_small", "trades_small")
    }
    return {
        **honest,
        "logits x 1e3": Subject(kind="masked", make=lambda: TimesLogits(natural(), 1e3), fails="gradients"),
        "16 levels": Subject(kind="masked", make=lambda: Pipeline([Rounded(16), natural()]), fails="black box"),
        "random wiggle, 4 draws": Subject(
            kind="masked",
            make=lambda: Pipeline([RandomWiggle(0.05, 6.0), natural()]),
            fails="EOT draws",
            effort=Effort(draws=4),
        ),
        "logits x 1e4": Subject(kind="unseen", make=lambda: TimesLogits(natural(), 1e4)),
        "8 levels": Subject(kind="unseen", make=lambda: Pipeline([Rounded(8), natural()])),
        "noise 0.1": Subject(kind="unseen", make=lambda: Pipeline([AdditiveNoise(0.1), natural()])),
        **{f"polarizing, {label}": s for label, s in polarizing_subjects().items()},
    }


def polarizing_subjects() -> dict[str, Subject]:
    """The polarizing network through each combination of its backward passes."""
    network = polarizing()
    every = combinations(network)
    named = zip(labels(network, every), every, strict=True)
    return {label: Subject(kind="defense", make=polarizing, backward=ways) for label, ways in named}


def natural() -> nn.Module:
    """The naturally trained small CNN."""
    return stored_small_cnn("natural_small")


def small(name: str) -> Callable[[], nn.Module]:
    """Makes a stored small CNN."""
    return lambda: stored_small_cnn(name)


def polarizing() -> nn.Module:
    """The polarizing network of the dissertation, section 4.1."""
    front = PolarizingFrontEnd(filters=25, kernel_size=5, thresholds=0.3, in_channels=1, quantize=True)
    network = Pipeline([front, SmallCNN(in_channels=25)])
    network.load_state_dict(torch.load(MODELS / "polarizing_fashion.pt", weights_only=True))
    return network.eval()


def audited(audit: Credibility, network: nn.Module, data: FashionMNIST, images: int) -> dict[str, Any]:
    """An audit of the first test images, without a trainer: the content of `audit.json`."""
    network, test, size = network.eval(), data.images(train=False), data.eval_batch_size
    blocks = []
    for start in range(0, size * ceil(images / size), size):
        index = torch.arange(start, min(start + size, len(test)))
        noise = Noise(sampling.keys(index, seed=audit.seed))
        blocks.append(FullBlock(network, pixels(test.x[index]), test.y[index], index, noise, size))
    audit.check(network, data)
    audit.prepare(blocks[0], data)
    measured = [audit.measure(block) for block in blocks]
    return audit.summarise({name: np.concatenate([np.asarray(m[name]) for m in measured]) for name in measured[0]})


if __name__ == "__main__":
    main()
