"""Accuracy under Gaussian noise of growing deviation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lit_robust import radius
from lit_robust.attacks import GaussianNoise
from lit_robust.callbacks.array_column import packed, rounded, unpacked
from lit_robust.callbacks.measurement import TABLE, Measurement, Results
from lit_robust.callbacks.run_figure import SIGMA, caption, run_styles
from lit_robust.errors import UserError
from lit_robust.evaluation.full_block import FullBlock
from lit_robust.evaluation.interval import wilson
from lit_robust.plots.show import show_image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PICTURES = 6  # noisy images below the graph
_SIDE = 64  # pixels that are kept of a larger image, at its centre
_EVERY_50TH = tuple(Fraction(i, 50) for i in range(11))


class NoiseAccuracy(Measurement):
    """Accuracy on clamp(x + N(0, σ²), 0, 1) against σ, over several draws of the noise (dissertation, Fig. 5.7).

    A draw has the same noise at every σ, scaled. A random network draws anew for each.

    Args:
        sigmas: Standard deviations, in units of the [0, 1] pixel range.
        draws: Draws of the noise for each image and σ.
        image: Position in the test set of the image that is shown below the graph.
        seed: Seed of the noise.

    Raises:
        UserError: If there is no σ, one is negative or given twice, or a number is out of range.
    """

    name = "noise"

    def __init__(
        self,
        *,
        sigmas: Sequence[Fraction | float | str] = _EVERY_50TH,
        draws: int = 3,
        image: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(seed=seed)
        self.sigmas = sorted(radius.parse(sigma, name="sigma") for sigma in sigmas)
        self.draws = draws
        self.image = image
        different = {f"{float(sigma):g}" for sigma in self.sigmas}
        if not self.sigmas or self.sigmas[0] < 0 or len(different) < len(self.sigmas):
            raise UserError(f"expected sigmas of NoiseAccuracy of 0 or more, each once, got {list(map(str, sigmas))}")
        if draws < 1 or image < 0:
            raise UserError(f"expected draws of at least 1 and image of 0 or more, got {draws} and {image}")

    def measure(self, block: FullBlock) -> dict[str, Any]:
        """A column a σ, `sigma <σ>`: the predictions under each draw."""
        predictions = [
            torch.stack([self._predictions(block, sigma, draw) for draw in range(self.draws)], dim=1)
            for sigma in self.sigmas
        ]
        shown = [self._pictures(block, row) if i == self.image else b"" for row, i in enumerate(block.index.tolist())]
        columns = {f"sigma {float(s):g}": column for s, column in zip(self.sigmas, predictions, strict=True)}
        return {"index": block.index, "label": block.y, **columns, "noisy": shown}

    def summarise(self, columns: dict[str, Any]) -> dict[str, Any]:
        """`curve`: for each σ the mean accuracy and its deviation over the draws, and the interval of the images.

        All draws are of the same images, so they are no larger sample: Wilson's interval is of the mean number of
        right images out of N.
        """
        n, curve = len(columns["label"]), []
        for sigma in map(float, self.sigmas):
            right = np.stack(list(columns[f"sigma {sigma:g}"])) == columns["label"][:, None]
            correct = right.sum(0)
            curve.append(
                {
                    "sigma": sigma,
                    "accuracy": float(correct.mean() / n),
                    "deviation": float((correct / n).std(ddof=1)) if self.draws > 1 else None,
                    "interval_95": list(wilson(round(correct.mean()), n)),
                    "correct": correct.tolist(),
                    "n": n,
                }
            )
        table = {f"noise/{point['sigma']:g}": point["accuracy"] for point in curve}
        return {"draws": self.draws, "curve": curve, **self._image(columns["noisy"]), TABLE: table}

    @classmethod
    def draw(cls, results: Mapping[str, Results]) -> Figure:
        """A curve a run; below it a test image under growing noise, as the first run that has one saw it."""
        from matplotlib.figure import Figure

        pictures: list[dict[str, Any]] = next((r["image"]["noisy"] for r in results.values() if "image" in r), [])
        figure = Figure(figsize=(6.4, 5.4 if pictures else 4.2), layout="constrained")
        grid = figure.add_gridspec(2, max(1, len(pictures)), height_ratios=[3.6, 1 if pictures else 0.01])
        _draw_curves(figure.add_subplot(grid[0, :]), results)
        for column, picture in enumerate(pictures):
            axis = figure.add_subplot(grid[1, column])
            show_image(axis, picture["pixels"], f"{SIGMA} = {picture['sigma']:g}")
        return figure

    def _noisy(self, block: FullBlock, sigma: Fraction, draw: int) -> Tensor:
        noise = block.noise.restarted(draw)  # draw 0 is what `GaussianNoise` draws in an evaluation of the same seed
        return GaussianNoise(sigma=sigma).search(block.network, block.x, block.y, noise)

    def _predictions(self, block: FullBlock, sigma: Fraction, draw: int) -> Tensor:
        noisy = self._noisy(block, sigma, draw)
        return replace(block, noise=block.noise.restarted(draw)).logits(noisy).argmax(1)

    @property
    def _pictured(self) -> list[Fraction]:
        at = np.linspace(0, len(self.sigmas) - 1, min(_PICTURES, len(self.sigmas)))
        return [self.sigmas[round(i)] for i in at]

    def _pictures(self, block: FullBlock, row: int) -> bytes:
        """The image of a row under growing noise, cut to its centre where it is large."""
        images = torch.stack([self._noisy(block, sigma, 0)[row] for sigma in self._pictured])
        top, left = (max(0, (side - _SIDE) // 2) for side in images.shape[-2:])
        return packed(images[..., top : top + _SIDE, left : left + _SIDE])

    def _image(self, column: Sequence[bytes]) -> dict[str, Any]:
        stored = next((content for content in column if content), None)
        if stored is None:
            return {}
        noisy = [
            {"sigma": float(sigma), "pixels": rounded(pixels)}
            for sigma, pixels in zip(self._pictured, unpacked(stored), strict=True)
        ]
        return {"image": {"index": self.image, "noisy": noisy}}


def _draw_curves(axis: Axes, results: Mapping[str, Results]) -> None:
    for run, style in run_styles(list(results)).items():
        curve = results[run]["curve"]
        sigma, mean = ([point[key] for point in curve] for key in ("sigma", "accuracy"))
        low, high = ([100 * point["interval_95"][side] for point in curve] for side in (0, 1))
        deviation = [100 * (point["deviation"] or 0.0) for point in curve]
        percent = [100 * value for value in mean]
        axis.fill_between(sigma, low, high, color=style["color"], alpha=0.15, linewidth=0)
        axis.errorbar(sigma, percent, deviation, label=run, color=style["color"], marker="o", markersize=3, capsize=2)
    axis.set_xlabel(f"standard deviation {SIGMA} of the noise, in units of the pixel range")
    axis.set_ylabel("accuracy in %")
    axis.set_ylim(0, 102)
    axis.grid(alpha=0.3)
    axis.set_title(
        f"{caption(results, {'draws': 'draws'})}\nbars: deviation over the draws; bands: 95 % interval of the images",
        fontsize=9,
    )
    if len(results) > 1:
        axis.legend(fontsize=8)
