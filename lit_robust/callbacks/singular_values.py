"""Singular values of the convolutions of a network, as linear maps of whole feature maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from lit_robust.analysis.circular_singular_values import circular_singular_values, torus_size
from lit_robust.analysis.conv_operator import ConvOperator
from lit_robust.analysis.dense_singular_values import dense_memory, dense_singular_values
from lit_robust.analysis.leading_singular_values import leading_singular_values
from lit_robust.callbacks.array_column import rounded
from lit_robust.callbacks.measurement import TABLE, Results
from lit_robust.callbacks.spectrum_figure import spectrum_figure
from lit_robust.callbacks.weight_statistics import WeightStatistics
from lit_robust.errors import UserError
from lit_robust.evaluation.full_block import FullBlock
from lit_robust.taps import Tap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_POINTS = 100  # of a curve, evenly by rank, and as many evenly by its logarithm


class SingularValues(WeightStatistics):
    """Singular values of each convolution on maps of the size that it sees (dissertation, Fig. 3.20 and 3.21).

    With circular padding they are all exact, for any size. With zeros, as the layer has them, all values are found
    where the matrix fits in memory, and the leading ones elsewhere.

    Args:
        layers: Names of 2-D convolutions; see `LayerMeasurement`. None for all.
        padding: What is taken to be around the maps.
        leading: How many values of a layer are found where its matrix does not fit; for zeros.
        memory_gib: Largest memory of a matrix and its decomposition, in GiB; for zeros.
        seed: Seed of the maps that Lanczos steps start with.

    Raises:
        UserError: If `padding` is neither, or a number is not above 0.
    """

    name = "singular_values"

    def __init__(
        self,
        *,
        layers: Sequence[str] | None = None,
        padding: Literal["circular", "zeros"] = "circular",
        leading: int = 20,
        memory_gib: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__(layers=layers, seed=seed)
        if padding not in ("circular", "zeros"):
            raise UserError(f"expected padding of SingularValues to be circular or zeros, got {padding!r}")
        if leading < 1 or not memory_gib > 0:
            raise UserError(f"expected leading of at least 1 and memory_gib above 0, got {leading} and {memory_gib}")
        self.padding = padding
        self.leading = leading
        self.memory_gib = memory_gib

    def choose(self, seen: Mapping[str, Tap]) -> list[str]:
        """All convolutions."""
        for name, tap in seen.items():
            self.check_layer(name, tap)
        return list(seen)

    def check_layer(self, name: str, tap: Tap) -> None:
        """Refuses a layer that is no convolution with its own filters, or whose values could not be found."""
        if not isinstance(tap.layer, nn.Conv2d):
            raise UserError(f"SingularValues needs 2-D convolutions; {name} is {type(tap.layer).__name__}")
        operator = ConvOperator.of(tap.layer, tap.input.shape[2:])
        try:
            if self.padding == "zeros":
                operator.check_zeros()
            else:
                torus_size(operator)
        except UserError as error:
            raise UserError(f"SingularValues, layer {name}: {error}") from error
        if not _explains(operator, tap):
            raise UserError(
                f"SingularValues: {name} ({type(tap.layer).__name__}) does more than convolve with its weight, so its "
                "filters are not known; name the other layers in layers"
            )

    def measure(self, block: FullBlock) -> dict[str, Any]:
        """A row a singular value: `layer`, `rank` from 1, `value`, and of how many it is one (`count`)."""
        layers: list[str] = []
        ranks: list[Tensor] = []
        values: list[Tensor] = []
        counts: list[Tensor] = []
        for name, tap in self.run(block, block.x).items():
            assert isinstance(tap.layer, nn.Conv2d)
            operator = ConvOperator.of(tap.layer, tap.input.shape[2:])
            found = self._values(operator)
            layers += [name] * len(found)
            ranks.append(torch.arange(1, len(found) + 1))
            values.append(found)
            counts.append(torch.full_like(ranks[-1], len(found) if self.padding == "circular" else min(operator.shape)))
        columns = {"rank": torch.cat(ranks), "value": torch.cat(values), "count": torch.cat(counts)}
        return {"index": torch.arange(len(layers)), "layer": layers, **columns}

    def _values(self, operator: ConvOperator) -> Tensor:
        if self.padding == "circular":
            return circular_singular_values(operator)
        if dense_memory(operator) <= self.memory_gib:
            return dense_singular_values(operator, memory_gib=self.memory_gib)
        return leading_singular_values(operator, min(self.leading, min(operator.shape) - 1), seed=self.seed)

    def summarise(self, columns: dict[str, Any]) -> dict[str, Any]:
        """`layers`: for each how many values there are and are known, the largest, and the curve over the largest.

        `table`: where all are known, the mean of their squares over the largest square, which is larger the fatter
        the tail; 1 if all are equal.
        """
        layers: dict[str, Any] = {}
        for name in self.chosen:
            values = self.of_layer(columns, name, "value")
            count = int(self.of_layer(columns, name, "count")[0])
            largest = float(values[0])
            over = values / largest if largest > 0 else values
            ranks = _some_ranks(len(values))
            layers[name] = {
                "count": count,
                "known": len(values),
                "largest": largest,
                "tail": float((over**2).mean()) if len(values) == count else None,
                "ranks": ranks.tolist(),
                "values": rounded(over[ranks - 1], 6),
            }
        tails = {f"singular_values/tail/{name}": layer["tail"] for name, layer in layers.items()}
        return {
            "padding": self.padding,
            "layers": layers,
            TABLE: {
                **{f"singular_values/largest/{name}": layer["largest"] for name, layer in layers.items()},
                **{key: value for key, value in tails.items() if value is not None},
            },
        }

    @classmethod
    def draw(cls, results: Mapping[str, Results]) -> Figure:
        """Curves of the first, middle and last two layers; four runs as two pairs."""
        return spectrum_figure(results)


def _explains(operator: ConvOperator, tap: Tap) -> bool:
    """Whether the output is the operator's, and a bias; not asked where the padding is not of zeros."""
    assert isinstance(tap.layer, nn.Conv2d)
    if any(operator.padding) and operator.padding_mode != "zeros":
        return True
    found = operator(tap.input.detach().to("cpu", torch.float64))
    if tap.layer.bias is not None:
        found = found + tap.layer.bias.detach().to(found)[:, None, None]
    output = tap.output.to(found)
    return found.shape == output.shape and bool((found - output).abs().max() <= 1e-3 * output.abs().max())


def _some_ranks(known: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Ranks from 1 to `known`, evenly spaced and evenly by their logarithms."""
    even = np.linspace(1, known, min(_POINTS, known))
    return np.unique(np.concatenate([even, np.geomspace(1, known, min(_POINTS, known))]).round().astype(np.int64))
