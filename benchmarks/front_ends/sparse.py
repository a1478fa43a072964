"""The sparse coding front end at a size for two cores, beside networks without one, under its suite of attacks.

    python -m benchmarks.front_ends.sparse --cifar FOLDER

FOLDER holds 4,000 lossless training images of CIFAR-10 (train/CLASS) and 1,000 test images. 100 atoms, a decoder of 60
and 20 channels, 20 epochs; the front end with its classifier, its unsupervised twin, and ResNet-32 after natural and
after R+FGSM training with as many epochs. Everything may be stopped and started again. Writes `results/sparse.json` and
the tests' per-sample results.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.front_ends.pieces import fit, seconds, short, tested, write
from benchmarks.small_systems import RESULTS

HERE = Path(__file__).parent
FOLDER = ["--data=ImageFolder", "--data.batch_size=64", "--data.val_split=0"]
EPOCHS = ["--trainer.max_epochs=20"]
BASELINES = ("resnet32_natural", "resnet32_fast_at")


def main() -> None:
    """Runs what is missing and writes the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", required=True, help="folder with train/CLASS and test/CLASS")
    parser.add_argument("--images", type=int, default=128, help="test images under attack")
    parser.add_argument("--fit-only", action="store_true")
    options = parser.parse_args()
    place = [f"--data.root={options.cifar}"]

    fit("dictionary_small", ["--config", "dictionary_small.yaml", *place])
    trained = {"sparse_small": fit("sparse_small", ["--config", "sparse_small.yaml", *place])}
    decoder = ["--config", "sparse_decoder.yaml", "--config", "sparse_small_decoder.yaml"]
    autoencoder = fit("sparse_small_decoder", [*decoder, *place])
    twin = ["--config", "sparse_small.yaml", "--config", "sparse_frozen.yaml", *place]
    fit("sparse_small_unsupervised", [*twin, f"--model.network.front_end.run={autoencoder}"])
    for name in BASELINES:
        trained[name] = fit(name, ["--config", f"{name}.yaml", *FOLDER, *EPOCHS, *place])
    if options.fit_only:
        return

    summary = {"command": "python -m benchmarks.front_ends.sparse --cifar FOLDER", "images": options.images}
    first = [f"--data.eval_batch_size={options.images}", "--trainer.limit_test_batches=1", *place]
    for name, run in trained.items():
        found = {"seconds of training": seconds(run)}
        if name in BASELINES:
            found["attacks"] = short(tested(run, HERE / "baselines.yaml", first))
        else:
            found["attacks"] = short(tested(run, HERE / "sparse.yaml", first))
            found["transfer"] = short(tested(run, HERE / "transfer.yaml", first))
        summary[name] = found
        write(RESULTS / "sparse.json", summary)
        print(name, json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
