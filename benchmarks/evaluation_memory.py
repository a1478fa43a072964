"""Peak memory of a test against its number of images: the small CNN of natural training under PGD-5, Fashion-MNIST.

Each test is a process of its own. Nearly all images are broken at L∞ 0.1, so nearly all adversarials are kept; they and
the rows of samples go to the disk block by block. What grows is the table of per-sample results, which is merged at the
end, about 100 bytes a row. In the first twenty blocks the process still grows, since batches of many sizes have their
place in memory to find: both tests are longer. Theirs is the smaller one.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from pathlib import Path

from benchmarks.subjects import MODELS
from benchmarks.timing import Comparison, fresh_process, options, peak_memory, report
from lit_robust.cli import run

BLOCK = 250


def main() -> None:
    parser = options(__doc__)
    parser.add_argument(
        "--images", nargs=2, type=int, default=[5000, 10_000], help="of the smaller and the larger test"
    )
    parser.add_argument("--test", type=int, help="runs one test of so many images, and prints its peak memory")
    given = parser.parse_args()
    if given.test:
        before = peak_memory()
        with contextlib.redirect_stdout(sys.stderr):
            _test(given.test, given.root)
        print(json.dumps({"before": before, "peak": peak_memory()}))
        return
    counts = [BLOCK, 2 * BLOCK] if given.smoke else given.images
    found = {n: fresh_process(__spec__.name, f"--test={n}", f"--root={given.root}") for n in counts}
    small, large = (found[n]["peak"] / 2**20 for n in counts)
    name = f"evaluation_memory, {counts[1]:,} against {counts[0]:,} images"
    comparison = Comparison(
        name=name, ratio=large / small, target=1.1, bound="at most", ours=large, theirs=small, unit="MiB"
    )
    report(__spec__.name, [comparison], {"bytes": {str(n): each for n, each in found.items()}}, given)


def _test(images: int, root: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        network = "--model.network"
        attack = "{pgd: {class_path: PGD, init_args: {threat: {eps: 0.1}, steps: 5}}}"
        code = run(
            [
                *("test", "--runs", folder, "--model=Natural", "--ckpt_path=none", "--data=FashionMNIST"),
                *(f"--data.root={root}", f"--data.eval_batch_size={BLOCK}"),
                *(f"{network}=FromFile", f"{network}.network=lit_robust.nn.SmallCNN"),
                *(f"{network}.file={MODELS / 'natural_small.pt'}", f"--evaluation.attacks={attack}"),
                *(f"--trainer.limit_test_batches={images // BLOCK}", "--trainer.enable_progress_bar=false"),
            ]
        )
    if code:
        raise SystemExit(code)


if __name__ == "__main__":
    main()
