"""Images before and after an attack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lit_robust.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def show(
    x: Tensor,
    x_adv: Tensor,
    labels: Sequence[object] | Tensor | None = None,
    labels_adv: Sequence[object] | Tensor | None = None,
    *,
    count: int = 6,
) -> Figure:
    """A column an image: clean, difference (grey is none, scaled to its largest value), adversarial.

    Args:
        x: Clean images in [0, 1], (N, C, H, W) with one channel or three.
        x_adv: Adversarial images, as `x`.
        labels: What stands above each clean image: its class, or what the model says of it.
        labels_adv: What stands above each adversarial image.
        count: Images at most.

    Raises:
        UserError: If the images are of different shapes, there are none, or there are fewer labels than images.
    """
    if x.ndim != 4 or x.shape != x_adv.shape or not len(x):
        raise UserError(
            f"expected clean and adversarial images of one shape, (N, C, H, W), got {tuple(x.shape)} and "
            f"{tuple(x_adv.shape)}"
        )
    for name, given in (("labels", labels), ("labels_adv", labels_adv)):
        if given is not None and len(given) != len(x):
            raise UserError(f"expected {len(x)} {name}, one an image, got {len(given)}")
    from matplotlib.figure import Figure

    n = min(count, len(x))
    figure = Figure(figsize=(1.4 * n + 0.6, 4.8), layout="constrained")
    axes = figure.subplots(3, n, squeeze=False)
    for i in range(n):
        delta = x_adv[i].detach() - x[i].detach()
        largest = float(delta.abs().max())
        show_image(axes[0, i], x[i], _text(labels, i))
        show_image(axes[1, i], difference(delta), f"± {255 * largest:.1f}/255")
        show_image(axes[2, i], x_adv[i], _text(labels_adv, i))
    for row, name in zip(axes[:, 0], ("clean", "difference", "adversarial"), strict=True):
        row.text(-0.12, 0.5, name, transform=row.transAxes, rotation=90, ha="right", va="center", fontsize=9)
    return figure


def difference(delta: Tensor) -> Tensor:
    """A perturbation (C, H, W) as an image: grey where it is 0, white and black at its largest value."""
    return 0.5 + 0.5 * delta / max(float(delta.abs().max()), 1e-12)


def show_image(axis: Axes, image: Tensor | Sequence[Any], title: str = "") -> None:
    """Shows an image, (C, H, W) in [0, 1] with one channel or three, without an axis."""
    pixels = torch.as_tensor(image).detach().cpu().float().clamp(0, 1)
    shown = pixels.expand(3, -1, -1) if len(pixels) == 1 else pixels[:3]
    axis.imshow(shown.permute(1, 2, 0).numpy(), interpolation="nearest")
    axis.set_title(title, fontsize=8)
    axis.set_axis_off()


def _text(labels: Sequence[object] | Tensor | None, i: int) -> str:
    if labels is None:
        return ""
    return str(labels[i].item() if isinstance(labels, Tensor) else labels[i])
