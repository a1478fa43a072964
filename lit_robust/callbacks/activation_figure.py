"""The picture of the activations of section 4.1: dead zone, quantiser, and the bumps that clear its thresholds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lit_robust.callbacks.polarization_histogram import shade_zones
from lit_robust.nn.bumps import bumps
from lit_robust.nn.dead_zone import DeadZone
from lit_robust.nn.level_quantizer import LevelQuantizer

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def activation_figure(c: float, eps: float, *, sigma1: float = 0.35, sigma2: float = 0.15) -> Figure:
    """Dead zone (dissertation, Fig. 4.1), quantiser with danger zones (Fig. 4.2), and B₁ and B₂ over it (Fig. 4.5).

    Args:
        c: Threshold of the ternary quantiser, in (0, 1).
        eps: L∞ radius: half width of the dead zone and of the danger zones.
        sigma1: Width of B₁.
        sigma2: Width of B₂.

    Raises:
        UserError: If a number is out of its range.
    """
    from matplotlib.figure import Figure

    z = torch.linspace(-1, 1, 801)
    quantizer = LevelQuantizer(c)
    figure = Figure(figsize=(11.0, 3.4), layout="constrained")
    dead, levels, regularisers = figure.subplots(1, 3)
    through = DeadZone(eps)(z)
    dead.fill_between(z, through - eps, through + eps, where=(through != 0).numpy(), alpha=0.2, label="perturbation")
    dead.plot(z, through)
    dead.set_title("dead zone: what rides on active filters passes", fontsize=9)
    shade_zones(levels, quantizer.thresholds.tolist(), eps)
    levels.plot(z, quantizer(z))
    levels.set_title("quantiser and its danger zones", fontsize=9)
    regularisers.plot(z, quantizer(z), color="#7F7F7F", label="quantiser")
    regularisers.plot(z, bumps(z, [0.0], sigma1), label=r"$B_1$")
    regularisers.plot(z, bumps(z, quantizer.thresholds, sigma2), label=r"$B_2$")
    regularisers.set_title("bumps", fontsize=9)
    regularisers.legend(fontsize=8)
    for axis in (dead, levels, regularisers):
        axis.set_xlabel("normalised activation z")
        axis.grid(alpha=0.3)
    return figure
