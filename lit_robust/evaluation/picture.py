"""What an attack did, to look at: clean image, perturbation, adversarial image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lit_robust.plots.show import difference, show_image

if TYPE_CHECKING:
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
        show_image(row[0], example.x, f"{example.before[0]}, {100 * example.before[1]:.0f} %")
        show_image(row[1], difference(delta), f"perturbation, largest {255 * largest:.1f}/255")
        show_image(row[2], example.x_adv, f"{example.after[0]}, {100 * example.after[1]:.0f} %")
    return figure


def confidence(logits: Tensor, classes: Sequence[str]) -> list[tuple[str, float]]:
    """Predicted class and its probability for each row of logits."""
    values, predictions = torch.softmax(logits, dim=1).max(1)
    return [(classes[int(p)], float(v)) for p, v in zip(predictions, values, strict=True)]
