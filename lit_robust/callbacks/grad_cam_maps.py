"""Grad-CAM maps of the first test images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import nn

from lit_robust import sampling
from lit_robust.analysis import grad_cam
from lit_robust.callbacks.array_column import packed, rounded, unpacked
from lit_robust.callbacks.measurement import TABLE, Measurement, Results
from lit_robust.errors import UserError
from lit_robust.evaluation.full_block import FullBlock
from lit_robust.modes import network_mode
from lit_robust.plots.show import show_image
from lit_robust.sampling import CHECK
from lit_robust.taps import convolutions, trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HOT = 0.5  # a pixel is hot above this share of the largest one


class GradCAMMaps(Measurement):
    """Where a layer finds what speaks for a class, drawn over the first test images (dissertation, Fig. 5.9).

    Args:
        layer: Name of the layer, whose output is (N, C, H, W); None for the first 2-D convolution that runs.
        images: Number of images.
        target: Which class is explained, the predicted one or the true one.
        seed: Seed of a random network's noise.

    Raises:
        UserError: If `images` is below 1, or `target` is neither.
    """

    name = "gradcam"

    def __init__(
        self,
        *,
        layer: str | None = None,
        images: int = 8,
        target: Literal["prediction", "label"] = "prediction",
        seed: int = 0,
    ) -> None:
        super().__init__(seed=seed)
        self.layer = layer
        self.images = images
        self.target = target
        self._layer = ""
        self._classes: Sequence[str] = ()
        if images < 1 or target not in ("prediction", "label"):
            raise UserError(
                "expected images of GradCAMMaps of at least 1 and target prediction or label, got "
                f"{images} and {target!r}"
            )

    def check(self, network: nn.Module, data: Any) -> None:  # noqa: ANN401 - a data module; optional
        """Finds the layer and explains an image of zeros by it.

        Raises:
            UserError: If there is no such layer, the forward pass does not reach it, or its output has no space.
        """
        self._layer = self.layer or next(iter(trial(network, convolutions(network), data.image_shape)), "")
        if not self._layer:
            raise UserError(f"GradCAMMaps finds no convolution in {type(network).__name__}; name a layer")
        parameter = next(network.parameters(), torch.empty(0))
        x = torch.zeros(1, *data.image_shape).to(parameter)
        key = sampling.keys(torch.zeros(1, dtype=torch.int64, device=x.device))
        with network_mode(network, train=False), sampling.keyed(key):
            grad_cam(network, x, layer=self._layer)
        self._classes = data.classes

    def measure(self, block: FullBlock) -> dict[str, Any]:
        """Predictions; and as bytes, since the rows after the first images have none, images and maps."""
        rows = (block.index < self.images).nonzero().flatten()
        prediction = block.logits(block.x).argmax(1)
        images, maps = ([b""] * len(block.x) for _ in range(2))
        if len(rows):
            explained = (prediction if self.target == "prediction" else block.y)[rows]
            with block.noise.rows(rows).keyed(CHECK):
                heat = grad_cam(block.network, block.x[rows], explained, layer=self._layer)
            for row, pixels, its in zip(rows.tolist(), block.x[rows], heat, strict=True):
                images[row], maps[row] = packed(pixels), packed(its)
        return {"index": block.index, "label": block.y, "prediction": prediction, "image": images, "map": maps}

    def summarise(self, columns: dict[str, Any]) -> dict[str, Any]:
        """`images`: for each its classes, pixels and map; `table`: how much of the images is hot."""
        shown, hot = [], []
        for row in range(len(columns["index"])):
            if not columns["map"][row]:
                continue
            pixels, heat = (unpacked(columns[key][row]) for key in ("image", "map"))
            hot.append(float((heat > _HOT).mean()))
            label, prediction = (self._classes[columns[key][row]] for key in ("label", "prediction"))
            shown.append(
                {
                    "index": int(columns["index"][row]),
                    "label": label,
                    "prediction": prediction,
                    "pixels": rounded(pixels),
                    "map": rounded(heat),
                }
            )
        table = {
            "gradcam/hot": sum(hot) / max(1, len(hot)),
            "gradcam/empty": sum(not share for share in hot) / max(1, len(hot)),
        }
        return {"layer": self._layer, "target": self.target, "images": shown, TABLE: table}

    @classmethod
    def draw(cls, results: Mapping[str, Results]) -> Figure:
        """A row an image: the image, then the map of each run over it, red where it speaks for the class."""
        from matplotlib.figure import Figure

        images = {image["index"]: image for r in reversed(list(results.values())) for image in r["images"]}
        rows = max(1, len(images))
        figure = Figure(figsize=(0.6 + 1.5 * (1 + len(results)), 0.7 + 1.62 * rows), layout="constrained")
        axes = figure.subplots(rows, 1 + len(results), squeeze=False)
        for axis in axes.flat:
            axis.set_axis_off()
        for number, (index, image) in enumerate(sorted(images.items())):
            show_image(axes[number, 0], image["pixels"], image["label"])
            for axis, (run, result) in zip(axes[number, 1:], results.items(), strict=True):
                own = next((i for i in result["images"] if i["index"] == index), None)
                if own is not None:
                    _draw_map(axis, own, run if number == 0 and len(results) > 1 else "")
        figure.suptitle(_title(results), fontsize=9)
        return figure


def _draw_map(axis: Axes, image: Mapping[str, Any], run: str) -> None:
    show_image(axis, image["pixels"], "\n".join(part for part in (run, image["prediction"]) if part))
    axis.imshow(np.array(image["map"]), cmap="jet", vmin=0, vmax=1, alpha=0.5, interpolation="bilinear")


def _title(results: Mapping[str, Results]) -> str:
    """What is drawn, in lines that fit two pictures beside each other."""
    layers = ", ".join(dict.fromkeys(str(result["layer"]) for result in results.values()))
    targets = " and ".join(dict.fromkeys(str(result["target"]) for result in results.values()))
    seeds = ", ".join(dict.fromkeys(str(result["protocol"]["seed"]) for result in results.values()))
    what = f"Grad-CAM at {layers}\nof the {targets}, seed {seeds}"
    return f"{what}\nred: most, blue: nothing\nabove: the label; the prediction"
