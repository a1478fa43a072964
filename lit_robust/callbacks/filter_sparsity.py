"""How many of a filter's weights carry it, for every filter of a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from lit_robust.analysis.filter_sparsity import filter_sparsity
from lit_robust.callbacks.measurement import TABLE, Results
from lit_robust.callbacks.weight_histograms import weight_histograms
from lit_robust.callbacks.weight_statistics import WeightStatistics, described
from lit_robust.errors import UserError
from lit_robust.evaluation.full_block import FullBlock
from lit_robust.taps import Tap

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class FilterSparsity(WeightStatistics):
    """((‖w‖₁/‖w‖₂)² − 1) / (d − 1) of every filter: 0 is one weight, 1 is all of one magnitude (Fig. 3.18 and 3.19).

    Args:
        layers: Names of convolutions or linear layers; see `LayerMeasurement`. None for every 2-D convolution whose
            filters have two weights or more.
        seed: Unused: nothing is random.
    """

    name = "filter_sparsity"
    quantities: ClassVar[Mapping[str, str]] = {"sparsity": "0 is one weight, 1 is all of one magnitude"}

    def choose(self, seen: Mapping[str, Tap]) -> list[str]:
        """The convolutions whose filters have two weights or more."""
        return [name for name, tap in seen.items() if _filters(tap.layer)[0].numel() > 1]

    def check_layer(self, name: str, tap: Tap) -> None:
        """Refuses a layer that has no filters of two weights or more."""
        if not (isinstance(tap.layer, nn.Conv2d | nn.Linear) and _filters(tap.layer)[0].numel() > 1):
            raise UserError(f"FilterSparsity needs convolutions or linear layers with two weights; {name} is none")

    def measure(self, block: FullBlock) -> dict[str, Any]:
        """A row a filter: `layer`, `filter`, `sparsity`, which is NaN for a filter of zeros."""
        layers: list[str] = []
        filters: list[Tensor] = []
        values: list[Tensor] = []
        for name in self.chosen:
            found = filter_sparsity(_filters(block.network.get_submodule(name))).cpu()
            layers += [name] * len(found)
            filters.append(torch.arange(len(found)))
            values.append(found)
        columns = {"layer": layers, "filter": torch.cat(filters), "sparsity": torch.cat(values)}
        return {"index": torch.arange(len(layers)), **columns}

    def summarise(self, columns: dict[str, Any]) -> dict[str, Any]:
        """`layers`: of each the numbers of its filters and what describes them, and how many filters are zero."""
        layers: dict[str, Any] = {}
        for name in self.chosen:
            values = self.of_layer(columns, name, "sparsity")
            layers[name] = {"sparsity": described(values), "zero_filters": int(np.isnan(values).sum())}
        table = {f"filter_sparsity/{name}": layer["sparsity"]["median"] for name, layer in layers.items()}
        return {"layers": layers, TABLE: {key: value for key, value in table.items() if value is not None}}

    @classmethod
    def draw(cls, results: Mapping[str, Results]) -> Figure:
        """A panel a layer, with a histogram a run."""
        return weight_histograms(results, cls.quantities, cls.distances(results), "Sparsity of filters")


def _filters(layer: nn.Module) -> Tensor:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight
