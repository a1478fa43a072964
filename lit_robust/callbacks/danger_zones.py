"""How many activations of a polarizing front end are in danger."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lit_robust import radius
from lit_robust.analysis.polarization import danger_shares
from lit_robust.callbacks.array_column import rounded
from lit_robust.callbacks.measurement import TABLE, Measurement, Results
from lit_robust.callbacks.run_figure import caption, layer_bars
from lit_robust.errors import UserError
from lit_robust.evaluation.full_block import FullBlock
from lit_robust.nn.polarizing import polarizing_front_end

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class DangerZones(Measurement):
    """Share of each filter's activations within eps of a threshold, which an attack may bring to another level.

    Args:
        eps: L∞ radius; a number of at least 0, or text such as `8/255`.
        seed: Not used: nothing is random.

    Raises:
        UserError: If `eps` is not a number of at least 0.
    """

    name = "danger_zones"

    def __init__(self, *, eps: Fraction | float | str, seed: int = 0) -> None:
        super().__init__(seed=seed)
        self.eps = float(radius.parse(eps, name="eps"))
        if not self.eps >= 0:
            raise UserError(f"expected eps of DangerZones to be 0 or more, got {eps}")
        self._locations = 0

    def check(self, network: nn.Module, data: Any) -> None:  # noqa: ANN401 - a data module; optional
        """Refuses a network without a polarizing front end, or with several."""
        polarizing_front_end(network)
        self._locations = data.image_shape[1] * data.image_shape[2]

    def measure(self, block: FullBlock) -> dict[str, Any]:
        """A column a filter, `filter <number>` from 1: the share of its activations in each image."""
        front_end = polarizing_front_end(block.network)[1]
        with torch.no_grad():
            shares = danger_shares(front_end.responses(block.x), front_end.quantizer.thresholds, self.eps)
        columns = {f"filter {number}": share for number, share in enumerate(shares.unbind(1), 1)}
        return {"index": block.index, "label": block.y, **columns}

    def summarise(self, columns: dict[str, Any]) -> dict[str, Any]:
        """`filters`: each one's share; in the table the mean over them, and the number of activations in an image."""
        shares = [float(column.mean()) for name, column in columns.items() if name.startswith("filter ")]
        total = sum(shares)
        table = {"danger_zones/share": total / len(shares), "danger_zones/activations": total * self._locations}
        return {"eps": self.eps, "filters": rounded(torch.tensor(shares, dtype=torch.float64).numpy()), TABLE: table}

    @classmethod
    def draw(cls, results: Mapping[str, Results]) -> Figure:
        """A bar a filter and run, in the order of their shares."""
        from matplotlib.figure import Figure

        values = {
            run: {str(place): 100 * share for place, share in enumerate(sorted(r["filters"], reverse=True), 1)}
            for run, r in results.items()
        }
        figure = Figure(figsize=(8.0, 4.0), layout="constrained")
        axis = figure.subplots()
        layer_bars(axis, values, "activations in danger zones in %")
        axis.set_xlabel("filter, by its share")
        axis.set_title(f"Activations within eps of a threshold\n{caption(results, {'eps': 'eps'})}", fontsize=9)
        return figure
