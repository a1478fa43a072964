"""What an attack did, to look at: clean image, perturbation, adversarial image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Example:
    """An image before and after an attack.

    Attributes:
        x: Clean image, (C, H, W).
        x_adv: Attacked image, (C, H, W).
        before: Class and confidence on the clean image.
        after: Class and confidence on the attacked image.
    """

    x: Tensor
    x_adv: Tensor
    before: tuple[str, float]
    after: tuple[str, float]


def adversarial_figure(examples: Sequence[Example], title: str) -> Figure:
    """A row an example: clean, perturbation (grey is none, scaled to its largest value), adversarial."""
    from matplotlib.figure import Figure

    n = max(1, len(examples))
    figure = Figure(figsize=(6.6, 2.1 * n + 0.5), layout="constrained")
    figure.suptitle(title if examples else f"{title}: no image was broken", fontsize=9)
    axes = figure.subplots(n, 3, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for row, example in zip(axes, examples, strict=False):
        delta = example.x_adv - example.x
        largest = float(delta.abs().max())
        _show(row[0], example.x, f"{example.before[0]}, {100 * example.before[1]:.0f} %")
        _show(row[1], 0.5 + 0.5 * delta / max(largest, 1e-12), f"perturbation, largest {255 * largest:.1f}/255")
        _show(row[2], example.x_adv, f"{example.after[0]}, {100 * example.after[1]:.0f} %")
    return figure


def _show(axis: Axes, image: Tensor, title: str) -> None:
    pixels = image.detach().cpu().float().clamp(0, 1)
    shown = pixels.expand(3, -1, -1) if len(pixels) == 1 else pixels[:3]
    axis.imshow(shown.permute(1, 2, 0).numpy(), interpolation="nearest")
    axis.set_title(title, fontsize=8)


def confidence(logits: Tensor, classes: Sequence[str]) -> list[tuple[str, float]]:
    """Predicted class and its probability for each row of logits."""
    values, predictions = torch.softmax(logits, dim=1).max(1)
    return [(classes[int(p)], float(v)) for p, v in zip(predictions, values, strict=True)]
