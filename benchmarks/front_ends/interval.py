"""How much can be certified on MNIST at 0.1: interval training with and without a polarizing front end.

    python -m benchmarks.front_ends.interval --root DATA

The front end is that of the whole run of `polarizing_mnist.yaml`; see `front_ends.polarizing`. A small CNN by
interval training; the same behind the front end, which is frozen, and which trains along. 1,000 test images.
Everything may be stopped and started again. Writes `results/interval.json` and the weights.
"""

from __future__ import annotations

import argparse
import json

from benchmarks.front_ends.pieces import fit, keep_weights, seconds, tested, write
from benchmarks.small_systems import RESULTS

SYSTEMS = {
    "interval_mnist": [],
    "interval_frozen": ["--config", "polarizing_interval_frozen.yaml"],
    "interval_filters": ["--config", "polarizing_interval_filters.yaml"],
}


def main() -> None:
    """Runs what is missing and writes the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder of MNIST")
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=SYSTEMS)
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()
    path, place = RESULTS / "interval.json", [f"--data.root={options.root}"]
    thousand = ["--data.eval_batch_size=500", "--trainer.limit_test_batches=2"]
    for name in options.systems:
        settings = ["--config", "interval_mnist.yaml", *SYSTEMS[name], f"--trainer.max_epochs={options.epochs}"]
        run = fit(name, [*settings, *place])
        keep_weights(run)
        certified = tested(run, "certificate.yaml", [*place, *thousand])["certified"]
        summary = json.loads(path.read_text()) if path.is_file() else {}
        summary |= {"command": "python -m benchmarks.front_ends.interval --root DATA"}
        summary[name] = {"epochs": options.epochs, "seconds of training": seconds(run), "certified": certified}
        write(path, summary)
        print(name, {point["name"]: point["accuracy"] for point in certified["curve"]}, flush=True)


if __name__ == "__main__":
    main()
