"""Certified accuracy against the radius, a proof image by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from lit_robust import radius
from lit_robust.callbacks.measurement import TABLE, Measurement, Results
from lit_robust.callbacks.run_figure import accuracy_curve, caption, run_styles
from lit_robust.errors import UserError
from lit_robust.evaluation.certificate import Certifiable, certifiable, check_certifiable
from lit_robust.evaluation.full_block import FullBlock
from lit_robust.evaluation.interval import wilson
from lit_robust.modes import network_mode
from lit_robust.threat import NAMES, Norm, ThreatModel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GRID = ("0.5/255", "1/255", "2/255", "4/255", "8/255", "16/255", "0.1", "0.2", "0.3")


class CertifiedAccuracy(Measurement):
    """Share of the test images that are right and proved to stay so, on a grid of radii; see `evaluation.certificate`.

    It needs a network that is not random, in float32, with interval bounds; with a `PolarizingFrontEnd` as the first
    stage of a `Pipeline`, images are also certified by its codes alone. A row of `certified.parquet` is an image, with
    the largest radius on the grid that it is certified at: 0 if at none, and null if its prediction is wrong.

    Args:
        eps: Radii, in units of the [0, 1] pixel range.
        norm: `linf`, `l2` or `l1`.
        seed: Of no effect; nothing is drawn.

    Raises:
        UserError: If there is no radius, one is not above 0 or given twice, or the norm is another.
    """

    name = "certified"

    def __init__(self, *, eps: Sequence[Fraction | float | str] = _GRID, norm: Norm = "linf", seed: int = 0) -> None:
        super().__init__(seed=seed)
        self.norm = norm
        self.eps = sorted(radius.parse(each) for each in eps)
        if norm not in ("linf", "l2", "l1"):
            raise UserError(f"expected norm of CertifiedAccuracy to be linf, l2 or l1, got {norm!r}")
        if not self.eps or self.eps[0] <= 0 or len({radius.show(each) for each in self.eps}) < len(self.eps):
            raise UserError(f"expected eps of CertifiedAccuracy above 0, each once, got {list(map(str, eps))}")
        self.threats = [ThreatModel(each, norm) for each in self.eps]

    def check(self, network: nn.Module, data: Any) -> None:  # noqa: ANN401 - a data module; optional
        """Tries the certificate on two grey images.

        Raises:
            UserError: If the network is random, its front end does not quantise, or it has no interval bounds.
        """
        for threat in self.threats:
            threat.check_shape(tuple(data.image_shape))
        parameter = next(network.parameters(), torch.empty(0))
        x = torch.full((2, *data.image_shape), 0.5, device=parameter.device)
        with network_mode(network, train=False):
            check_certifiable(network, x)
            certifiable(network).least_margins(x, torch.zeros(2, dtype=torch.int64, device=x.device), self.threats[0])

    def measure(self, block: FullBlock) -> dict[str, Any]:
        """For each image whether it is right, the largest certified radius, and for each radius what proves it."""
        check_certifiable(block.network, block.x)
        parts = certifiable(block.network)
        right = block.logits(block.x).argmax(1) == block.y
        columns: dict[str, Any] = {"index": block.index, "label": block.y, "right": right}
        largest = torch.where(right, 0.0, torch.nan).double()
        left = right  # smaller balls are inside larger ones, so what is not certified is asked no more
        for threat in self.threats:
            by_codes = torch.zeros_like(right)
            if (undecided := parts.undecided(block.x, threat)) is not None:
                columns[f"undecided {_shown(threat)}"] = undecided
                by_codes = right & (undecided == 0)
            by_intervals = _by_intervals(parts, block, threat, left)
            left = by_codes | by_intervals
            columns[f"codes {_shown(threat)}"] = by_codes
            columns[f"certified {_shown(threat)}"] = left
            largest = torch.where(left, float(threat.exact), largest)
        columns["largest_eps"] = [None if np.isnan(value) else value for value in largest.tolist()]
        return columns

    def summarise(self, columns: dict[str, Any]) -> dict[str, Any]:
        """`curve`: for each radius the certified accuracy, the part that the codes alone prove, and its interval."""
        n, curve = len(columns["right"]), []
        for threat in self.threats:
            certified = int(columns[f"certified {_shown(threat)}"].sum())
            counts = columns.get(f"undecided {_shown(threat)}")
            curve.append(
                {
                    "eps": float(threat.exact),
                    "name": _shown(threat),
                    "accuracy": certified / n,
                    "interval_95": list(wilson(certified, n)),
                    "certified": certified,
                    "by_codes": int(columns[f"codes {_shown(threat)}"].sum()),
                    "undecided_mean": None if counts is None else float(counts.mean()),
                    "n": n,
                }
            )
        right = int(columns["right"].sum())
        clean = {"accuracy": right / n, "interval_95": list(wilson(right, n)), "correct": right, "n": n}
        table = {f"certified/{point['name']}": point["accuracy"] for point in curve}
        return {"norm": NAMES[self.norm], "clean": clean, "curve": curve, TABLE: table}

    @classmethod
    def draw(cls, results: Mapping[str, Results]) -> Figure:
        """A curve a run, from its clean accuracy on; below it the activations that can change, where there are any."""
        from matplotlib.figure import Figure

        coded = [run for run, result in results.items() if result["curve"][0]["undecided_mean"] is not None]
        heights, styles = [2, 1] if coded else [1], run_styles(list(results))
        figure = Figure(figsize=(6.4, 6.0 if coded else 4.2), layout="constrained")
        axes = figure.subplots(len(heights), squeeze=False, sharex=True, height_ratios=heights)[:, 0]
        upper, *lower = axes
        for run, result in results.items():
            _draw_curve(upper, run, result, str(styles[run]["color"]))
        norms = " or ".join(dict.fromkeys(result["norm"] for result in results.values()))
        axes[-1].set_xlabel(f"radius in {norms}, in units of the pixel range")
        upper.set_ylabel("certified accuracy in %")
        upper.set_ylim(0, 102)
        upper.set_title(f"{caption(results, {})}\nbands: 95 % intervals; dashed: proved by codes alone", fontsize=9)
        if len(results) > 1:
            upper.legend(fontsize=8)
        for axis in lower:
            for run in coded:
                points = results[run]["curve"]
                counts = [point["undecided_mean"] for point in points]
                axis.plot([p["eps"] for p in points], counts, "o-", color=styles[run]["color"], markersize=3)
            axis.set_ylabel("undecided activations\nan image")
            axis.set_ylim(bottom=0)
        for axis in axes:
            axis.grid(alpha=0.3)
        return figure


def _shown(threat: ThreatModel) -> str:
    return radius.show(threat.exact)


def _by_intervals(parts: Certifiable, block: FullBlock, threat: ThreatModel, rows: Tensor) -> Tensor:
    """Which of some images, (N,) bool, bounds certify, (N,) bool."""
    proved = torch.zeros_like(rows)
    proved[rows] = parts.least_margins(block.x[rows], block.y[rows], threat) > 0
    return proved


def _draw_curve(axis: Axes, run: str, result: Results, colour: str) -> None:
    points = [{"eps": 0.0, **result["clean"], "by_codes": result["clean"]["correct"]}, *result["curve"]]
    accuracy_curve(axis, run, points, colour)
    if result["curve"][0]["undecided_mean"] is not None:
        by_codes = [100 * point["by_codes"] / point["n"] for point in points]
        axis.plot([point["eps"] for point in points], by_codes, "--", color=colour, linewidth=1)
