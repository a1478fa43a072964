"""The picture of a front end's filters after each stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def filter_figure(results: Mapping[str, Any]) -> Figure:
    """A square grid of filters for each snapshot, red, white and blue around 0 (dissertation, Fig. 4.6).

    Limits are symmetric and a snapshot's own. Of filters with several input channels the mean is shown.

    Args:
        results: What `polarization.json` holds; see `PolarizationStages`.
    """
    from matplotlib.figure import Figure

    snapshots = results["snapshots"]
    figure = Figure(figsize=(3.2 * max(1, len(snapshots)), 3.9), layout="constrained")
    panels = figure.subplots(1, max(1, len(snapshots)), squeeze=False)[0]
    for axis in panels:
        axis.set_axis_off()
    for axis, one in zip(panels, snapshots, strict=False):
        picture = filter_grid(one["filters"])
        limit = max(float(np.nanmax(np.abs(picture))), 1e-12)
        shown = axis.imshow(picture, cmap="RdBu", vmin=-limit, vmax=limit, interpolation="nearest")
        axis.set_title(f"epoch {one['epoch']}", fontsize=9)
        figure.colorbar(shown, ax=axis, location="bottom", shrink=0.8)
    return figure


def filter_grid(filters: Sequence[Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Filters (K, C, k, k) as one picture, row by row in a square grid, with a line of NaN around each."""
    weights = np.asarray(filters, dtype=float).mean(1)
    count, side = len(weights), weights.shape[1]
    columns = ceil(sqrt(count))
    rows, step = ceil(count / columns), side + 1
    picture = np.full((rows * step + 1, columns * step + 1), np.nan)
    for i, weight in enumerate(weights):
        top, left = (i // columns) * step + 1, (i % columns) * step + 1
        picture[top : top + side, left : left + side] = weight
    return picture
