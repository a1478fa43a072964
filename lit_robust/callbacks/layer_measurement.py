"""What measurements of layers share: which layers, found out before any work."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from lit_robust.callbacks.measurement import Measurement
from lit_robust.errors import UserError
from lit_robust.evaluation.full_block import FullBlock
from lit_robust.taps import Tap, Taps, convolutions, layer_names, trial


class LayerMeasurement(Measurement):
    """Measures layers that are chosen by patterns of their names.

    Args:
        layers: Names of layers, with `*`, `?` and `[...]` as in file names; None for the measurement's own choice among
            the 2-D convolutions.
        seed: Seed of the measurement's noise.

    Attributes:
        chosen: Names of the layers that are measured, in the order in which they run.
    """

    def __init__(self, *, layers: Sequence[str] | None = None, seed: int = 0) -> None:
        super().__init__(seed=seed)
        self.layers = None if layers is None else list(layers)
        self.chosen: list[str] = []
        if self.layers == []:
            raise UserError(f"{type(self).__name__}: expected names of layers or null for all convolutions, got none")

    @abstractmethod
    def choose(self, seen: Mapping[str, Tap]) -> list[str]:
        """Those of the convolutions that are measured where `layers` is None.

        Args:
            seen: What the convolutions saw of one image, by name, in the order in which they run.
        """

    def check_layer(self, name: str, tap: Tap) -> None:
        """Refuses a layer that was asked for and cannot be measured.

        Args:
            name: Name of the layer.
            tap: What it saw of one image.

        Raises:
            UserError: If it cannot.
        """

    def check(self, network: nn.Module, data: Any) -> None:  # noqa: ANN401 - a data module; optional
        """Finds the layers by a trial run.

        Raises:
            UserError: If a pattern matches no layer, the forward pass does not reach one, or one cannot be measured.
        """
        asked = [] if self.layers is None else layer_names(network, self.layers)
        seen = trial(network, asked or convolutions(network), data.image_shape)
        for name in asked:
            if name not in seen:
                raise UserError(f"{type(self).__name__}: the forward pass does not reach layer {name}; leave it out")
            if not (isinstance(seen[name].input, Tensor) and isinstance(seen[name].output, Tensor)):
                raise UserError(f"{type(self).__name__}: layer {name} does not map a tensor to a tensor; leave it out")
            self.check_layer(name, seen[name])
        self.chosen = list(seen) if asked else self.choose(seen)
        if not self.chosen:
            raise UserError(f"{type(self).__name__} finds no convolution in {type(network).__name__}; name the layers")

    def run(self, block: FullBlock, x: Tensor) -> dict[str, Tap]:
        """What the chosen layers see of images, in the rows of the block.

        Args:
            block: The block.
            x: Its images or changed ones, (N, C, H, W).
        """
        with Taps(block.network, self.chosen) as taps:
            block.logits(x)
        n = len(block.x)
        return {name: Tap(taps[name].layer, taps[name].input[:n], taps[name].output[:n]) for name in self.chosen}
