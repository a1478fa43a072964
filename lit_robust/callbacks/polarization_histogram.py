"""The picture of polarization: where normalised activations lie after each stage, and which are in danger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lit_robust.callbacks.run_figure import run_styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def polarization_histogram(results: Mapping[str, Any]) -> Figure:
    """Histograms of z at each snapshot (dissertation, Fig. 4.4), and below each filter's share in the danger zones.

    Args:
        results: What `polarization.json` holds; see `PolarizationStages`.
    """
    from matplotlib.figure import Figure

    snapshots = results["snapshots"]
    styles = run_styles([f"epoch {one['epoch']}" for one in snapshots])
    figure = Figure(figsize=(7.0, 6.4), layout="constrained")
    above, below = figure.subplots(2, height_ratios=[1.5, 1])
    for one, (label, style) in zip(snapshots, styles.items(), strict=True):
        _steps(above, one["histogram"], label, style["color"])
        shares = sorted((100 * share for share in one["danger"]), reverse=True)
        below.plot(range(1, len(shares) + 1), shares, marker="o", markersize=3, color=style["color"], label=label)
    shade_zones(above, results["thresholds"], results["eps"])
    above.set_yscale("log")
    above.set_xlim(-1, 1)
    above.set_xlabel("normalised activation z")
    above.set_ylabel("share of activations in % a bin")
    images = snapshots[-1]["images"] if snapshots else 0
    above.set_title(
        f"Responses to {images:,} training images; shaded: within {results['eps']:g} of a threshold", fontsize=9
    )
    above.legend(fontsize=8)
    below.set_xlabel("filter, by its share")
    below.set_ylabel("in danger zones in %")
    below.set_ylim(bottom=0)
    below.grid(alpha=0.3)
    return figure


def shade_zones(axis: Axes, thresholds: Sequence[float], eps: float) -> None:
    """Marks thresholds, and the danger zones around them.

    Args:
        axis: An axis whose abscissa is z.
        thresholds: Thresholds of the quantiser.
        eps: Half width of the zones.
    """
    for threshold in thresholds:
        axis.axvspan(threshold - eps, threshold + eps, color="#D55E00", alpha=0.12, linewidth=0)
        axis.axvline(threshold, color="black", linestyle=":", linewidth=1)


def _steps(axis: Axes, counts: Sequence[int], label: str, colour: str) -> None:
    edges = [-1 + 2 * i / len(counts) for i in range(len(counts) + 1)]
    total = max(1, sum(counts))
    axis.stairs([100 * count / total for count in counts], edges, label=label, color=colour)
