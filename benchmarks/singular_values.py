"""All singular values of the convolutions of VGG-16 at its input sizes, against a loop of NumPy's over frequencies.

The loop is that of Sedghi et al. (2019): the Fourier transform of the filters on the whole map, in NumPy, then
`np.linalg.svd(block, compute_uv=False)` for each frequency. Both have the same filters, in float64, on a torus;
one that is larger than the map goes round it. The values are compared, over the largest of their layer. Ours shares the
frequencies among `--threads` threads; NumPy's BLAS has the cores of the machine for each block, unless
OPENBLAS_NUM_THREADS or OMP_NUM_THREADS says otherwise.
"""

from __future__ import annotations

import os

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.timing import Comparison, alternate, options, report, speedup
from lit_robust.analysis.circular_singular_values import circular_singular_values
from lit_robust.analysis.conv_operator import ConvOperator
from lit_robust.nn import VGG16
from lit_robust.taps import convolutions, trial

TARGET = 4


def operators(width: float) -> dict[str, ConvOperator]:
    """The convolutions of an untrained VGG-16, for images of 32×32."""
    torch.manual_seed(0)
    model = VGG16(width=width).eval()
    found = {}
    for name, tap in trial(model, convolutions(model), (3, 32, 32)).items():
        assert isinstance(tap.layer, nn.Conv2d)
        found[name] = ConvOperator.of(tap.layer, tap.input.shape[2:])
    return found


def loop(operator: ConvOperator) -> Tensor:
    """NumPy's values of all frequencies, in descending order."""
    height, width = operator.size
    weight = operator.weight.numpy()
    around = np.zeros((*weight.shape[:2], height, width))
    for row in range(weight.shape[2]):
        for column in range(weight.shape[3]):
            around[:, :, row % height, column % width] += weight[:, :, row, column]
    blocks = np.ascontiguousarray(np.fft.fft2(around).transpose(2, 3, 0, 1)).reshape(-1, *weight.shape[:2])
    values = [np.linalg.svd(block, compute_uv=False) for block in blocks]
    return torch.from_numpy(np.concatenate(values)).sort(descending=True).values


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.rounds = 1 if given.smoke else given.rounds
    layers = operators(0.0625 if given.smoke else 1.0)
    off, comparisons, seconds = 0.0, [], {}
    for name, operator in layers.items():
        ours, theirs = circular_singular_values(operator), loop(operator)
        off = max(off, float((ours - theirs).abs().max() / theirs[0]))
        seconds[name] = alternate(
            {
                "ours": lambda operator=operator: circular_singular_values(operator),
                "numpy": lambda operator=operator: loop(operator),
            },
            rounds=given.rounds,
        )
        print(speedup(name, seconds[name]["ours"], seconds[name]["numpy"], target=TARGET), flush=True)
    rounds = {who: zip(*(each[who] for each in seconds.values()), strict=True) for who in ("ours", "numpy")}
    whole = {who: [sum(each) for each in parts] for who, parts in rounds.items()}
    comparisons.append(speedup("singular_values, VGG-16", whole["ours"], whole["numpy"], target=TARGET))
    comparisons.append(
        Comparison(
            name="singular_values, largest difference",
            ratio=off,
            target=1e-6,
            bound="at most",
            ours=off,
            theirs=0.0,
            unit="of the largest value",
        )
    )
    figures = {
        "rounds": given.rounds,
        "sizes": {name: [*operator.in_shape, operator.weight.shape[0]] for name, operator in layers.items()},
        "seconds": seconds,
        "blas_threads": {key: os.environ.get(key) for key in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")},
    }
    report(__spec__.name, comparisons, figures, given, ["numpy"])


if __name__ == "__main__":
    main()
