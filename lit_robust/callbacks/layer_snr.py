"""The signal-to-noise ratio at the layers of a network under Gaussian noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch

from lit_robust import radius
from lit_robust.analysis import decibel, snr
from lit_robust.attacks import GaussianNoise
from lit_robust.callbacks.layer_measurement import LayerMeasurement
from lit_robust.callbacks.measurement import TABLE, Results
from lit_robust.callbacks.run_figure import SIGMA, bars_width, caption, layer_bars
from lit_robust.errors import UserError
from lit_robust.evaluation.full_block import FullBlock
from lit_robust.taps import Tap

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class LayerSNR(LayerMeasurement):
    """Signal-to-noise ratio at the input of layers, in dB (dissertation, Eq. 5.6 and Fig. 5.6).

    The noise is what clamping to [0, 1] leaves of a Gaussian one. A random network draws the same noise of its own for
    the clean and the noisy image.

    Args:
        layers: Names of layers; see `LayerMeasurement`. None for every 2-D convolution.
        sigma: Standard deviation of the noise, in units of the [0, 1] pixel range.
        seed: Seed of the noise.

    Raises:
        UserError: If `sigma` is not above 0.
    """

    name = "snr"

    def __init__(
        self, *, layers: Sequence[str] | None = None, sigma: Fraction | float | str = 0.1, seed: int = 0
    ) -> None:
        super().__init__(layers=layers, seed=seed)
        self.sigma = radius.parse(sigma, name="sigma")
        if self.sigma <= 0:
            raise UserError(f"expected sigma of LayerSNR to be above 0, got {sigma}")

    def choose(self, seen: Mapping[str, Tap]) -> list[str]:
        """All convolutions."""
        return list(seen)

    def measure(self, block: FullBlock) -> dict[str, Any]:
        """The ratio of each image at each layer: a column a layer, `snr <layer>`."""
        noise = GaussianNoise(sigma=self.sigma)
        noisy = self.run(block, noise.search(block.network, block.x, block.y, block.noise))
        clean = self.run(block, block.x)
        ratios = {f"snr {name}": snr(clean[name].input, noisy[name].input) for name in self.chosen}
        return {"index": block.index, "label": block.y, **ratios}

    def summarise(self, columns: dict[str, Any]) -> dict[str, Any]:
        """`layers`: for each its ratio in dB, null where its input is zero on every image."""
        levels = {name: decibel(torch.from_numpy(columns[f"snr {name}"].copy())) for name in self.chosen}
        known = {name: level for name, level in levels.items() if math.isfinite(level)}
        return {
            "sigma": float(self.sigma),
            "layers": {name: {"snr_db": known.get(name)} for name in self.chosen},
            TABLE: {f"snr/{name}": level for name, level in known.items()},
        }

    @classmethod
    def draw(cls, results: Mapping[str, Results]) -> Figure:
        """A bar a layer and run."""
        from matplotlib.figure import Figure

        values = {run: {n: layer["snr_db"] for n, layer in r["layers"].items()} for run, r in results.items()}
        figure = Figure(figsize=(bars_width(values), 4.0), layout="constrained")
        axis = figure.subplots()
        layer_bars(axis, values, "SNR at the layer's input in dB")
        axis.set_title(f"Gaussian noise on the image\n{caption(results, {SIGMA: 'sigma'})}", fontsize=9)
        return figure
