"""The sparsity of a network's activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor

from lit_robust.analysis import hoyer
from lit_robust.callbacks.layer_measurement import LayerMeasurement
from lit_robust.callbacks.measurement import TABLE, Results
from lit_robust.callbacks.run_figure import bars_width, caption, layer_bars
from lit_robust.errors import UserError
from lit_robust.evaluation.full_block import FullBlock
from lit_robust.taps import Tap

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class LayerSparsity(LayerMeasurement):
    """Squared Hoyer measure over the channels of each location: 0 is one active channel, 1 is all equal (Fig. 5.4).

    Args:
        layers: Names of layers; see `LayerMeasurement`. None for every 2-D convolution of two channels or more, at the
            input without the first, which sees the image: what the blocks before them give.
        at: Whether the input or the output of the layers is measured.
        seed: Seed of a random network's noise.

    Raises:
        UserError: If `at` is neither.
    """

    name = "sparsity"

    def __init__(
        self,
        *,
        layers: Sequence[str] | None = None,
        at: Literal["input", "output"] = "input",
        seed: int = 0,
    ) -> None:
        super().__init__(layers=layers, seed=seed)
        self.at = at
        if at not in ("input", "output"):
            raise UserError(f"expected `at` of LayerSparsity to be input or output, got {at!r}")

    def choose(self, seen: Mapping[str, Tap]) -> list[str]:
        """The convolutions of two channels or more, at the input without the first."""
        names = list(seen)[1:] if self.at == "input" else list(seen)
        return [name for name in names if self._activations(seen[name]).shape[1] > 1]

    def check_layer(self, name: str, tap: Tap) -> None:
        """Refuses a layer whose activations are no (N, C) or (N, C, H, W) with two channels or more."""
        shape = tuple(self._activations(tap).shape)
        if len(shape) not in (2, 4) or shape[1] < 2:
            raise UserError(
                f"LayerSparsity needs two channels or more, (N, C) or (N, C, H, W); the {self.at} of {name} is {shape}"
            )

    def measure(self, block: FullBlock) -> dict[str, Any]:
        """Two columns a layer: `sparsity <layer>` and `silent <layer>`, the share of locations without activation."""
        columns: dict[str, Any] = {"index": block.index, "label": block.y}
        for name, tap in self.run(block, block.x).items():
            columns[f"sparsity {name}"], columns[f"silent {name}"] = hoyer(self._activations(tap))
        return columns

    def summarise(self, columns: dict[str, Any]) -> dict[str, Any]:
        """`layers`: for each its mean sparsity (null where it is silent on every image) and share of silent places."""
        layers = {}
        for name in self.chosen:
            values = columns[f"sparsity {name}"]
            known = values[np.isfinite(values)]
            layers[name] = {
                "sparsity": float(known.mean()) if len(known) else None,
                "silent": float(columns[f"silent {name}"].mean()),
            }
        table = {f"sparsity/{n}": layer["sparsity"] for n, layer in layers.items() if layer["sparsity"] is not None}
        return {"at": self.at, "layers": layers, TABLE: table}

    @classmethod
    def draw(cls, results: Mapping[str, Results]) -> Figure:
        """A bar a layer and run."""
        from matplotlib.figure import Figure

        values = {run: {n: layer["sparsity"] for n, layer in r["layers"].items()} for run, r in results.items()}
        figure = Figure(figsize=(bars_width(values), 4.0), layout="constrained")
        axis = figure.subplots()
        layer_bars(axis, values, "squared Hoyer measure\n(0: one active channel, 1: all equal)")
        places = " and ".join(dict.fromkeys(str(r["at"]) for r in results.values()))
        axis.set_title(f"Sparsity over channels at the {places} of layers\n{caption(results, {})}", fontsize=9)
        return figure

    def _activations(self, tap: Tap) -> Tensor:
        return tap.input if self.at == "input" else tap.output
