"""How the filters of a network's first layer, or the atoms of its dictionary, respond to one patch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lit_robust.analysis.patch_responses import patch_responses, symmetric_density
from lit_robust.callbacks.array_column import packed, rounded, unpacked
from lit_robust.callbacks.layer_measurement import LayerMeasurement
from lit_robust.callbacks.measurement import TABLE, Results
from lit_robust.callbacks.run_figure import run_styles
from lit_robust.errors import UserError
from lit_robust.evaluation.full_block import FullBlock
from lit_robust.taps import Tap

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class FilterResponses(LayerMeasurement):
    """Density of the inner products of a random patch with all filters of a layer, each of norm 1 (Fig. 4.10).

    The patch is cut from what the layer sees, so that of a classifier with a standardisation is standardised.

    Args:
        layers: Name of the layer; None for the one with a dictionary or, without one, the first 2-D convolution.
        image: Position in the test set of the image that the patch is from.
        bins: Bins of the histogram.
        seed: Seed of the patch's place.

    Raises:
        UserError: If the position is negative, or there is no bin.
    """

    name = "filter_responses"

    def __init__(self, *, layers: Sequence[str] | None = None, image: int = 0, bins: int = 50, seed: int = 0) -> None:
        super().__init__(layers=layers, seed=seed)
        if image < 0 or bins < 1:
            raise UserError(f"expected image of 0 or more and bins of at least 1, got {image} and {bins}")
        self.image = image
        self.bins = bins

    def check(self, network: nn.Module, data: Any) -> None:  # noqa: ANN401 - a data module; optional
        """Finds the layer by a trial run."""
        if self.layers is None:
            found = [name for name, layer in network.named_modules() if _dictionary(layer) is not None]
            self.layers = found[:1] or None
        super().check(network, data)

    def choose(self, seen: Mapping[str, Tap]) -> list[str]:
        """The first convolution."""
        return list(seen)[:1]

    def check_layer(self, name: str, tap: Tap) -> None:
        """Refuses a layer that has neither a dictionary nor the weights of a 2-D convolution in one group."""
        plain = isinstance(tap.layer, nn.Conv2d) and tap.layer.groups == 1
        if _dictionary(tap.layer) is None and not plain:
            raise UserError(f"FilterResponses needs a 2-D convolution or a dictionary; {name} is neither")

    def measure(self, block: FullBlock) -> dict[str, Any]:
        """`responses` of the image's patch as bytes, which the rows of other images have not."""
        responses = [b""] * len(block.x)
        rows = (block.index == self.image).nonzero().flatten().tolist()
        taps = self.run(block, block.x) if rows else {}
        for row in rows:
            tap = taps[self.chosen[0]]
            filters = _filters(tap.layer)
            seen, side = tap.input[row], filters.shape[2:]
            place = block.noise.rows(torch.tensor([row], device=block.x.device)).uniform("patch", (2,))[0].tolist()
            top, left = (int(u * (have - need + 1)) for u, have, need in zip(place, seen.shape[1:], side, strict=True))
            patch = seen[None, :, top : top + side[0], left : left + side[1]]
            responses[row] = packed(patch_responses(patch, filters)[0])
        return {"index": block.index, "label": block.y, "responses": responses}

    def summarise(self, columns: dict[str, Any]) -> dict[str, Any]:
        """`edges` and `heights` of the density; `table`: how many of the responses are above half of the largest.

        Raises:
            UserError: If the image was not tested.
        """
        content = next((each for each in columns["responses"] if each), None)
        if content is None:
            raise UserError(f"FilterResponses: image {self.image} is not among those that were tested")
        values = torch.from_numpy(unpacked(content))
        edges, heights = symmetric_density(values, self.bins)
        high = float((values.abs() > 0.5 * values.abs().max()).double().mean())
        return {
            "layer": self.chosen[0],
            "image": self.image,
            "filters": len(values),
            "edges": rounded(edges.numpy(), 6),
            "heights": rounded(heights.numpy(), 6),
            TABLE: {"filter_responses/above_half": high},
        }

    @classmethod
    def draw(cls, results: Mapping[str, Results]) -> Figure:
        """A panel a run."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(1.0 + 4.0 * len(results), 3.4), layout="constrained")
        styles = run_styles(list(results))
        for axis, (run, result) in zip(
            figure.subplots(1, len(results), squeeze=False)[0], results.items(), strict=True
        ):
            axis.stairs(result["heights"], result["edges"], fill=True, **styles[run])
            axis.set_title(f"{run}: {result['filters']} filters of {result['layer']}", fontsize=9)
            axis.set_xlabel("inner product with a patch")
            axis.set_ylabel("density")
        return figure


def _dictionary(layer: nn.Module) -> Tensor | None:
    """The atoms (L, C, k, k) of a layer that has a dictionary."""
    atoms = getattr(layer, "dictionary", None)
    return atoms if isinstance(atoms, Tensor) and atoms.ndim == 4 else None


def _filters(layer: nn.Module) -> Tensor:
    atoms = _dictionary(layer)
    return layer.get_parameter("weight") if atoms is None else atoms
