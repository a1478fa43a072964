"""Table 4.1 again: no defense, adversarial training and polarization, on Fashion-MNIST and MNIST, and the certificate.

    python -m benchmarks.front_ends.polarizing --root DATA --data fashion
    python -m benchmarks.front_ends.polarizing --root DATA --data mnist

The polarizing network is that of the shipped config, all 60 epochs. The others have 10 epochs, and adversarial training
10 steps of one restart instead of 20 of ten. All three meet the same attacks on the same images, the first ones of the
test set. Everything may be stopped and started again. Writes `results/polarizing.json`, the tests' per-sample results
and the weights.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from benchmarks.front_ends.pieces import fit, keep_weights, seconds, short, tested, write
from benchmarks.small_systems import RESULTS

SHORT = ["--trainer.max_epochs=10"]
ONE_RESTART = ["--model.attack.n=1", "--model.attack.attack.steps=10", "--model.attack.attack.step_size=eps/4"]
SYSTEMS = {
    "natural": ("{data}_natural", SHORT),
    "pgd_at": ("{data}_pgd_at", [*SHORT, *ONE_RESTART]),
    "polarizing": ("polarizing_{data}", []),
}
ATTACKS = {"fashion": "polarizing_attacks.yaml", "mnist": "polarizing_attacks_mnist.yaml"}


def main() -> None:
    """Runs what is missing and writes the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder of FashionMNIST and MNIST")
    parser.add_argument("--data", required=True, choices=ATTACKS)
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=SYSTEMS)
    parser.add_argument("--images", type=int, default=500, help="test images under attack, a multiple of 100")
    parser.add_argument("--fit-only", action="store_true")
    options = parser.parse_args()
    path = RESULTS / "polarizing.json"
    place = [f"--data.root={options.root}"]
    first = ["--data.eval_batch_size=100", f"--trainer.limit_test_batches={options.images // 100}"]
    for system in options.systems:
        config, settings = SYSTEMS[system]
        config = config.format(data=options.data)
        run = fit(config, ["--config", f"{config}.yaml", *place, *settings])
        keep_weights(run)
        if options.fit_only:
            continue
        found: dict[str, Any] = {
            "settings": settings,
            "seconds of training": seconds(run),
            "attacks": short(tested(run, ATTACKS[options.data], [*place, *first])),
        }
        thousand = ["--data.eval_batch_size=500", "--trainer.limit_test_batches=2"]
        found["certified"] = tested(run, "certificate.yaml", [*place, *thousand])["certified"]
        summary = json.loads(path.read_text()) if path.is_file() else {}
        summary["command"] = "python -m benchmarks.front_ends.polarizing --root DATA --data " + " | ".join(ATTACKS)
        summary[config] = found
        write(path, summary)
        print(config, found["attacks"], flush=True)


if __name__ == "__main__":
    main()
