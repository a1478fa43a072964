"""What batch normalisations have learned and counted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from lit_robust.callbacks.measurement import TABLE, Results
from lit_robust.callbacks.weight_histograms import weight_histograms
from lit_robust.callbacks.weight_statistics import WeightStatistics, described
from lit_robust.errors import UserError
from lit_robust.evaluation.full_block import FullBlock
from lit_robust.taps import Tap, trial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_Norm = nn.modules.batchnorm._BatchNorm


class BatchNormStatistics(WeightStatistics):
    """Running means and variances, scales γ and shifts β of all channels of batch normalisations (Fig. 3.14 to 3.17).

    Args:
        layers: Names of layers; see `LayerMeasurement`. None for every batch normalisation that runs.
        seed: Unused: nothing is random.
    """

    name = "batch_norm"
    quantities: ClassVar[Mapping[str, str]] = {
        "mean": "running mean",
        "variance": "running variance",
        "scale": r"scale $\gamma$",
        "shift": r"shift $\beta$",
    }

    def check(self, network: nn.Module, data: Any) -> None:  # noqa: ANN401 - a data module; optional
        """Finds the layers by a trial run.

        Raises:
            UserError: If the network has no batch normalisation, runs none, or one keeps no running statistics.
        """
        if self.layers is not None:
            super().check(network, data)
            return
        norms = [name for name, layer in network.named_modules() if isinstance(layer, _Norm)]
        seen = trial(network, norms, data.image_shape)
        for name, tap in seen.items():
            self.check_layer(name, tap)
        self.chosen = self.choose(seen)
        if not self.chosen:
            raise UserError(
                f"BatchNormStatistics: {type(network).__name__} {'runs' if norms else 'has'} no batch normalisation; "
                "leave BatchNormStatistics out of trainer.callbacks"
            )

    def choose(self, seen: Mapping[str, Tap]) -> list[str]:
        """All that run."""
        return list(seen)

    def check_layer(self, name: str, tap: Tap) -> None:
        """Refuses a layer that is no batch normalisation, or keeps no running statistics."""
        if not isinstance(tap.layer, _Norm):
            raise UserError(f"BatchNormStatistics: {name} is no batch normalisation but {type(tap.layer).__name__}")
        if tap.layer.running_mean is None:
            raise UserError(
                f"BatchNormStatistics: {name} keeps no running statistics (track_running_stats=False); name the others "
                "in layers"
            )

    def measure(self, block: FullBlock) -> dict[str, Any]:
        """A row a channel: `layer`, `channel`, `mean`, `variance`, `scale`, `shift`; 1 and 0 of a layer without."""
        parts: dict[str, list[Tensor]] = {"channel": [], **{quantity: [] for quantity in self.quantities}}
        layers: list[str] = []
        for name in self.chosen:
            norm = block.network.get_submodule(name)
            mean = norm.get_buffer("running_mean")
            layers += [name] * len(mean)
            parts["channel"].append(torch.arange(len(mean)))
            parts["mean"].append(mean)
            parts["variance"].append(norm.get_buffer("running_var"))
            parts["scale"].append(torch.ones_like(mean) if norm.weight is None else norm.get_parameter("weight"))
            parts["shift"].append(torch.zeros_like(mean) if norm.bias is None else norm.get_parameter("bias"))
        columns = {key: torch.cat([part.detach().cpu() for part in some]) for key, some in parts.items()}
        return {"index": torch.arange(len(layers)), "layer": layers, **columns}

    def summarise(self, columns: dict[str, Any]) -> dict[str, Any]:
        """`layers`: of each and each quantity, mean, deviation, median, extremes and the numbers of all channels.

        `table`: medians over the channels of the first, the middle and the last layer.
        """
        layers = {
            name: {key: described(self.of_layer(columns, name, key)) for key in self.quantities} for name in self.chosen
        }
        shown = dict.fromkeys([self.chosen[0], self.chosen[len(self.chosen) // 2], self.chosen[-1]])
        table = {f"batch_norm/{key}/{name}": layers[name][key]["median"] for key in self.quantities for name in shown}
        return {"layers": layers, TABLE: {key: value for key, value in table.items() if value is not None}}

    @classmethod
    def draw(cls, results: Mapping[str, Results]) -> Figure:
        """A row a layer and a column a quantity, with a histogram a run."""
        return weight_histograms(results, cls.quantities, cls.distances(results), "Batch normalisation")
