"""What evaluation saves because samples that are broken leave the batch, and that no verdict depends on it.

PGD-100 on a naturally trained small CNN, L∞ 0.1, 1,000 test images of Fashion-MNIST in blocks of 256.
"""

from __future__ import annotations

from statistics import median

import torch
from torch import Tensor

from benchmarks.subjects import fashion, pixels, trained_small_cnn
from benchmarks.timing import Comparison, alternate, options, report, speedup
from lit_robust.attacks import PGD
from lit_robust.evaluation import evaluate_block
from lit_robust.threat import ThreatModel

BLOCK = 256


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    count, steps, rounds = (40, 5, 1) if given.smoke else (1000, 100, given.rounds)
    train, test = fashion(given.root, train=True), fashion(given.root, train=False)
    epoch = len(train) // 128
    model = trained_small_cnn(train, steps=10 if given.smoke else 2 * epoch)
    x, y = pixels(test.x[:count]), test.y[:count]
    attack = PGD(threat=ThreatModel("1/10"), steps=steps)
    broken: dict[str, Tensor] = {}
    passes: dict[str, int] = {}

    def evaluate(name: str, *, leave: bool) -> None:
        verdicts = [
            evaluate_block(model, x[index], y[index], index, {"pgd": attack}, size=BLOCK, leave=leave).verdicts["pgd"]
            for index in torch.arange(count).split(BLOCK)
        ]
        broken[name] = torch.cat([verdict.broken for verdict in verdicts])
        passes[name] = sum(int(verdict.forwards.sum()) for verdict in verdicts)

    seconds = alternate(
        {"leaving": lambda: evaluate("leaving", leave=True), "staying": lambda: evaluate("staying", leave=False)},
        rounds=rounds,
    )
    robust = {name: int((~mask).sum()) for name, mask in broken.items()}
    timed = speedup("leaving", seconds["leaving"], seconds["staying"], target=5)
    same = Comparison(
        name="leaving, verdicts that are the same",
        ratio=(broken["leaving"] == broken["staying"]).double().mean().item(),
        target=1,
        ours=robust["leaving"],
        theirs=robust["staying"],
        unit=f"of {count} robust",
    )
    figures = {
        "attack": str(attack),
        "images": count,
        "block": BLOCK,
        "seconds": seconds,
        "median_seconds": {name: median(times) for name, times in seconds.items()},
        "robust": robust,
        "forward_passes": passes,
    }
    report(__spec__.name, [timed, same], figures, given)


if __name__ == "__main__":
    main()
