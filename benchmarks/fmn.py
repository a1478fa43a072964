"""FMN in L0, L1, L2 and L∞ against foolbox's on a small CNN: time, mean minimal norm, adversarials found.

The same test images of Fashion-MNIST and the same 100 steps. Of foolbox only the search is timed: its call would add a
forward pass that says what was broken. Norms are compared over the images for which both find an adversarial, each
checked afterwards. foolbox 3.3.4 does not project in L2 (it scales by norm / norm), keeps an entry more than the radius
in L0, and lets its first radius creep up to the boundary without crossing it; ours does none of that.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import median
from typing import Any

import foolbox
import torch
from foolbox.criteria import Misclassification
from torch import Tensor, nn

from benchmarks.subjects import fashion, pixels, trained_small_cnn
from benchmarks.timing import Comparison, alternate, options, report, speedup
from lit_robust.attacks import FMN
from lit_robust.threat import LpNorm, ThreatModel

PEERS = {
    "l0": foolbox.attacks.L0FMNAttack,
    "l1": foolbox.attacks.L1FMNAttack,
    "l2": foolbox.attacks.L2FMNAttack,
    "linf": foolbox.attacks.LInfFMNAttack,
}
NORMS: tuple[LpNorm, ...] = ("l0", "l1", "l2", "linf")


def searches(norm: LpNorm, model: nn.Module, x: Tensor, y: Tensor, steps: int) -> dict[str, Callable[[], Tensor]]:
    """Both searches."""
    ours, theirs = FMN(norm=norm, steps=steps), PEERS[norm](steps=steps)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    return {
        "ours": lambda: ours(model, x, y),
        "foolbox": lambda: theirs.run(wrapped, x, Misclassification(y)),
    }


def wrong(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(1) != y


def measure(
    norm: LpNorm, model: nn.Module, x: Tensor, y: Tensor, *, steps: int, rounds: int
) -> tuple[list[Comparison], dict[str, Any]]:
    found: dict[str, Tensor] = {}
    contenders = searches(norm, model, x, y, steps)

    def keep(name: str) -> Callable[[], None]:
        return lambda: found.update({name: contenders[name]()})

    seconds = alternate({name: keep(name) for name in contenders}, rounds=rounds)
    right = ~wrong(model, x, y)
    broken = {name: right & wrong(model, x_adv, y) for name, x_adv in found.items()}
    norms = {name: ThreatModel(None, norm).distance(x_adv, x) for name, x_adv in found.items()}
    both = broken["ours"] & broken["foolbox"]
    mean = {name: distance[both].mean().item() for name, distance in norms.items()}
    count = {name: int(mask.sum()) for name, mask in broken.items()}
    comparisons = [
        speedup(f"fmn, {norm}", seconds["ours"], seconds["foolbox"], target=1),
        Comparison(
            name=f"fmn, {norm}, mean norm",
            ratio=mean["ours"] / mean["foolbox"],
            target=1.02,
            bound="at most",
            ours=mean["ours"],
            theirs=mean["foolbox"],
            unit=f"in {norm}",
        ),
        Comparison(
            name=f"fmn, {norm}, adversarials found",
            ratio=count["ours"] / max(1, count["foolbox"]),
            target=1,
            ours=count["ours"],
            theirs=count["foolbox"],
            unit=f"of {int(right.sum())}",
        ),
    ]
    return comparisons, {
        "seconds": seconds,
        "median_seconds": {name: median(times) for name, times in seconds.items()},
        "found": count,
        "found_by_both": int(both.sum()),
        "mean_norm": mean,
        "mean_norm_of_all_found": {name: norms[name][broken[name]].mean().item() for name in norms},
    }


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    given: argparse.Namespace = parser.parse_args()
    torch.set_num_threads(given.threads)
    images, steps, rounds = (32, 10, 1) if given.smoke else (given.images, given.steps, given.rounds)
    model = trained_small_cnn(fashion(given.root, train=True), steps=10 if given.smoke else 400)
    test = fashion(given.root, train=False)
    x, y = pixels(test.x[:images]), test.y[:images]
    comparisons, figures = [], {"images": images, "steps": steps, "right": int((~wrong(model, x, y)).sum())}
    for norm in NORMS:
        made, figures[norm] = measure(norm, model, x, y, steps=steps, rounds=rounds)
        comparisons += made
    report(__spec__.name, comparisons, figures, given, ["foolbox"])


if __name__ == "__main__":
    main()
