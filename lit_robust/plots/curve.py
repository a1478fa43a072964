"""Accuracy against how hard an attack tries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from lit_robust import radius
from lit_robust.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito (2008), which colour-blind people tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
Accuracies = Sequence[float] | Mapping[str, Sequence[float]]


def accuracy_against_eps(
    eps: Sequence[Fraction | float | str], accuracy: Accuracies, *, norm: str = "L∞", chance: float | None = None
) -> Figure:
    """Curves of accuracy against the radius of the ball; honest ones fall to 0.

    Args:
        eps: Radii, in units of the [0, 1] pixel range: numbers or text such as `8/255`.
        accuracy: Share of images that are still right at each radius, in [0, 1]; or such lists by names of curves.
        norm: Norm of the ball, for the axis.
        chance: Accuracy of guessing, drawn as a line; None for no line.

    Raises:
        UserError: If a curve has another number of points than there are radii, or an accuracy lies outside [0, 1].
    """
    figure = _curves([float(radius.parse(each)) for each in eps], accuracy, chance)
    figure.axes[0].set_xlabel(f"radius in {norm}, in units of the pixel range")
    figure.axes[0].set_xlim(left=0)
    return figure


def accuracy_against_steps(steps: Sequence[int], accuracy: Accuracies, *, chance: float | None = None) -> Figure:
    """Curves of accuracy against the steps of an attack; it tried hard enough where they are flat.

    Args:
        steps: Numbers of steps.
        accuracy: As for `accuracy_against_eps`.
        chance: As for `accuracy_against_eps`.

    Raises:
        UserError: As for `accuracy_against_eps`.
    """
    figure = _curves([float(each) for each in steps], accuracy, chance)
    axis = figure.axes[0]
    axis.set_xscale("symlog", linthresh=1)  # which has room for 0 steps
    axis.set_xlim(min(steps) - 0.1, 1.2 * max(*steps, 1))
    axis.set_xticks(list(steps), [str(each) for each in steps], minor=False)
    axis.minorticks_off()
    axis.set_xlabel("steps of the attack")
    return figure


def draw_accuracy(axis: Axes, name: str, at: Sequence[float], accuracy: Sequence[float], colour: str) -> None:
    """Draws a curve in percent.

    Args:
        axis: Where to draw.
        name: Name of the curve, for a legend.
        at: Positions.
        accuracy: Shares in [0, 1].
        colour: Its colour.
    """
    axis.plot(at, [100 * value for value in accuracy], "o-", color=colour, markersize=3, label=name)


def _curves(at: Sequence[float], accuracy: Accuracies, chance: float | None) -> Figure:
    from matplotlib.figure import Figure

    named = accuracy if isinstance(accuracy, Mapping) else {"": accuracy}
    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axis = figure.subplots()
    for i, (name, values) in enumerate(named.items()):
        if len(values) != len(at):
            raise UserError(f"expected {len(at)} accuracies, one a point of the curve {name!r}, got {len(values)}")
        if not all(0 <= float(value) <= 1 for value in values):
            raise UserError(f"expected accuracies of the curve {name!r} as shares in [0, 1], got {list(values)}")
        draw_accuracy(axis, name, at, [float(value) for value in values], COLOURS[i % len(COLOURS)])
    if chance is not None:
        axis.axhline(100 * chance, color="0.5", linewidth=0.8, linestyle=":", label="guessing")
    axis.set_ylabel("accuracy in %")
    axis.set_ylim(-2, 102)
    axis.grid(alpha=0.3)
    if len(named) > 1 or chance is not None:
        axis.legend(fontsize=8)
    return figure
