"""What measurements of weights share: they need no image, and their rows are filters instead of samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, ClassVar

import lightning.pytorch as pl
import numpy as np
import torch

from lit_robust.analysis.weight_distance import weight_distance
from lit_robust.callbacks.array_column import Floats, rounded
from lit_robust.callbacks.layer_measurement import LayerMeasurement
from lit_robust.callbacks.measurement import Batch, Results
from lit_robust.callbacks.run_figure import union_of_orders


class WeightStatistics(LayerMeasurement):
    """Measures weights once, at the first block of the test set, whose images only show how large the maps are.

    Attributes:
        quantities: What a filter has, by its key in `layers` of the JSON; of these runs are told apart.
    """

    quantities: ClassVar[Mapping[str, str]] = {}

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Measures at the first block of the first process, and counts no sample: none has a part in the figures."""
        if batch_idx == 0 and trainer.is_global_zero:
            super().on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
            self._samples = 0

    def of_layer(self, columns: Mapping[str, Any], layer: str, quantity: str) -> Floats:
        """A quantity of all filters of a layer, from the columns of the table."""
        return np.asarray(columns[quantity][columns["layer"] == layer], dtype=np.float64)

    @classmethod
    def distances(cls, results: Mapping[str, Results]) -> list[dict[str, Any]]:
        """How far each layer's filters are from those of the first run, for every other run and quantity.

        Args:
            results: The contents of `<name>.json` by run, the first being what the others are compared with.

        Returns:
            `layer`, `quantity`, `run`, `distance` (Wasserstein-1, in pooled standard deviations), `interval_95` and
            `p` of each, None where there is none; see `weight_distance`. Layers that both runs have.
        """
        first, *others = results
        found = []
        for layer in union_of_orders([list(result["layers"]) for result in results.values()]):
            both = [run for run in others if layer in results[run]["layers"] and layer in results[first]["layers"]]
            for quantity in cls.quantities:
                for run in both:
                    one, other = (results[each]["layers"][layer][quantity]["values"] for each in (first, run))
                    found.append({"layer": layer, "quantity": quantity, "run": run, **_distance(one, other)})
        return found


def described(values: Floats) -> dict[str, Any]:
    """The numbers of a layer's filters for JSON: mean, standard deviation, median, extremes, and all of them.

    Args:
        values: One number a filter, (N,); what is not finite is left out.
    """
    known = values[np.isfinite(values)]
    if not len(known):
        return {"mean": None, "sd": None, "median": None, "min": None, "max": None, "values": []}
    about = (known.mean(), known.std(), np.median(known), known.min(), known.max())
    return {
        **dict(zip(("mean", "sd", "median", "min", "max"), map(float, about), strict=True)),
        "values": rounded(known, 6),
    }


def _distance(first: Sequence[float], other: Sequence[float]) -> dict[str, Any]:
    found = weight_distance(torch.tensor(first), torch.tensor(other))
    if not all(map(isfinite, found)):
        return {"distance": None, "interval_95": None, "p": None}
    return {"distance": found.value, "interval_95": [found.low, found.high], "p": found.p}
