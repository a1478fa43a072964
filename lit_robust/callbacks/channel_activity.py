"""Which channels of a network are active, and how much more than the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from lit_robust.analysis import (
    activity_rates,
    channel_means,
    disparity,
    most_active,
    nearly_always,
    nearly_never,
    patch_norms,
)
from lit_robust.analysis.activity import strongest
from lit_robust.callbacks.array_column import packed, rounded, unpacked
from lit_robust.callbacks.layer_measurement import LayerMeasurement
from lit_robust.callbacks.measurement import TABLE, Results
from lit_robust.callbacks.run_figure import bars_width, caption, layer_bars
from lit_robust.errors import UserError
from lit_robust.evaluation.full_block import FullBlock
from lit_robust.taps import Tap, layer_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CRISP = 256  # channels whose rows are drawn as they are; of more, neighbours share a row of the picture


class ChannelActivity(LayerMeasurement):
    """How strongly a layer's strongest channels are active, and whether they are the same on all images.

    All of it is of outputs after a ReLU. Of each location: the mean of the K strongest channels and that of the others,
    divided by the norm of the input patch where the layer is a convolution. Of each image: the K channels of the
    largest mean over space, which count as active there. Channels that are active on nearly all images carry no
    information, which is how a Hebbian cost is cheated (dissertation, Fig. 5.3).

    Args:
        layers: Names of layers; see `LayerMeasurement`. None for every 2-D convolution.
        fraction: K is this fraction of the channels, rounded up.
        images: Images of the heat map, the first of the test set; the figures are of the whole set.
        heat_map: Name of the layer whose channels the heat map shows; None for the last one.
        seed: Seed of a random network's noise.

    Raises:
        UserError: If a number is out of range.
    """

    name = "channels"

    def __init__(
        self,
        *,
        layers: Sequence[str] | None = None,
        fraction: float = 0.1,
        images: int = 100,
        heat_map: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(layers=layers, seed=seed)
        self.fraction = fraction
        self.images = images
        self.heat_map = heat_map
        self._channels: dict[str, int] = {}
        self._divided: dict[str, bool] = {}
        self._shown = ""
        if not 0 < fraction < 1 or images < 1:
            raise UserError(f"expected fraction in (0, 1) and images of at least 1, got {fraction} and {images}")

    def choose(self, seen: Mapping[str, Tap]) -> list[str]:
        """The convolutions that have more than the K strongest channels."""
        return [name for name, tap in seen.items() if tap.output.shape[1] > 1 and self._leaves_some(tap)]

    def check_layer(self, name: str, tap: Tap) -> None:
        """Refuses a layer whose output is no (N, C) or (N, C, H, W) with more than the K strongest channels."""
        shape = tuple(tap.output.shape)
        if len(shape) not in (2, 4) or not self._leaves_some(tap):
            raise UserError(
                f"ChannelActivity needs outputs (N, C) or (N, C, H, W) with more channels than the strongest "
                f"{self.fraction:g} of them; {name} gives {shape}"
            )

    def check(self, network: nn.Module, data: Any) -> None:  # noqa: ANN401 - a data module; optional
        """Finds the layers, as `LayerMeasurement.check`, and that of the heat map.

        Raises:
            UserError: Also if the heat map's layer is none of them, or several.
        """
        super().check(network, data)
        shown = self.chosen[-1:] if self.heat_map is None else layer_names(network, [self.heat_map])
        if len(shown) != 1 or shown[0] not in self.chosen:
            raise UserError(
                f"expected heat_map of ChannelActivity to be one of its layers, {', '.join(self.chosen)}; got "
                f"{self.heat_map!r}"
            )
        self._shown = shown[0]

    def measure(self, block: FullBlock) -> dict[str, Any]:
        """Three columns a layer: `top <layer>`, `rest <layer>`, and `active <layer>`, channel numbers (−1 is none)."""
        columns: dict[str, Any] = {"index": block.index, "label": block.y}
        for name, tap in self.run(block, block.x).items():
            positive, layer = tap.output.relu(), tap.layer
            norms = patch_norms(tap.input, layer) if isinstance(layer, nn.Conv2d) else None
            self._channels[name], self._divided[name] = positive.shape[1], norms is not None
            means = channel_means(positive)
            parts = disparity(positive, fraction=self.fraction, norms=norms)
            columns[f"top {name}"], columns[f"rest {name}"] = parts
            columns[f"active {name}"] = most_active(means, fraction=self.fraction)
            if name == self._shown:
                columns["means"] = self._first(means, block.index)
        return columns

    def summarise(self, columns: dict[str, Any]) -> dict[str, Any]:
        """`layers`: the figures of each; `heat_map`: mean activation of each channel (rows) on the first images."""
        layers = {}
        for name in self.chosen:
            active = torch.from_numpy(np.stack(list(columns[f"active {name}"])))
            rates = activity_rates(active, self._channels[name])
            layers[name] = {
                "channels": self._channels[name],
                "top": float(columns[f"top {name}"].mean()),
                "rest": float(columns[f"rest {name}"].mean()),
                "divided_by_patch_norm": self._divided[name],
                "nearly_always": nearly_always(rates),
                "nearly_never": nearly_never(rates),
            }
        means = np.array([unpacked(content) for content in columns["means"] if content])
        return {
            "fraction": self.fraction,
            "layers": layers,
            "heat_map": {"layer": self._shown, "means": rounded(means.T)},
            TABLE: {f"channels/nearly_always/{name}": layer["nearly_always"] for name, layer in layers.items()},
        }

    @classmethod
    def draw(cls, results: Mapping[str, Results]) -> Figure:
        """A heat map of channels and images for each run; below, the share of nearly always active channels."""
        from matplotlib.figure import Figure

        shares = {run: {n: 100 * x["nearly_always"] for n, x in r["layers"].items()} for run, r in results.items()}
        width = max(bars_width(shares), 3.4 * len(results))
        figure = Figure(figsize=(width, 7.4), layout="constrained")
        grid = figure.add_gridspec(2, 1, height_ratios=[1.2, 1])
        panels = figure.add_subfigure(grid[0]).subplots(1, max(1, len(results)), squeeze=False)[0]
        for axis, (run, result) in zip(panels, results.items(), strict=False):
            _draw_heat_map(axis, result["heat_map"], f"{run}, " if len(results) > 1 else "")
        axis = figure.add_subfigure(grid[1]).subplots()
        layer_bars(axis, shares, "channels in %")
        told = caption(results, {"strongest": "fraction"})
        axis.set_title(f"Channels among an image's strongest on 95 % of the images or more\n{told}", fontsize=9)
        return figure

    def _leaves_some(self, tap: Tap) -> bool:
        try:
            return strongest(tap.output.shape[1], self.fraction) > 0
        except UserError:
            return False

    def _first(self, means: Tensor, index: Tensor) -> list[bytes]:
        """Means of the first images of the test set, as bytes, since the other rows have none."""
        return [packed(row) if i < self.images else b"" for row, i in zip(means, index.tolist(), strict=True)]


def _draw_heat_map(axis: Axes, heat: Mapping[str, Any], title: str) -> None:
    crisp = "nearest" if len(heat["means"]) <= _CRISP else "antialiased"
    shown = axis.imshow(np.array(heat["means"]), aspect="auto", cmap="viridis", vmin=0, interpolation=crisp)
    axis.figure.colorbar(shown, ax=axis).set_label("mean activation", fontsize=8)
    axis.set_title(f"{title}{heat['layer']}", fontsize=9)
    axis.set_xlabel("image")
    axis.set_ylabel("channel")
