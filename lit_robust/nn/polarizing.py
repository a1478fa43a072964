"""The polarizing front end."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lit_robust.backward import SurrogateLayer, replace_gradient
from lit_robust.errors import UserError
from lit_robust.nn.l1_norm_conv import L1NormConv2d
from lit_robust.nn.level_quantizer import LevelQuantizer


class PolarizingFrontEnd(SurrogateLayer):
    """Quantised responses of filters of unit L1 norm to the image (dissertation, Fig. 4.3).

    A perturbation of at most eps a pixel moves a response by at most eps, so that only responses within eps of a
    threshold, in a danger zone, can change their level. `Polarizing` trains the filters to keep clear of these zones.

    Backward passes: `composed`, of the quantiser's own choice and exact in the convolution; `identity` of the whole
    front end, where every filter passes its gradient to the pixel in its place, in all channels of the image alike.

    Args:
        filters: Number of filters, K.
        kernel_size: Side of the filters, odd.
        thresholds: As for `LevelQuantizer`; a number c is the ternary quantiser's.
        in_channels: Channels of the images; None follows the data in a config, and is 1 outside one.
        quantize: Whether it quantises in train mode; see below.
        backward: As for `SurrogateLayer`.

    Attributes:
        conv: The filters.
        quantizer: The quantiser.
        quantize: Whether it quantises in train mode. In eval mode it always does.

    Raises:
        UserError: As for `L1NormConv2d` and `LevelQuantizer`.
    """

    offered = ("composed", "identity")
    opaque = frozenset({"identity"})

    def __init__(
        self,
        *,
        filters: int = 25,
        kernel_size: int = 5,
        thresholds: float | Sequence[float] = 0.5,
        in_channels: int | None = None,
        quantize: bool = True,
        backward: str | None = None,
    ) -> None:
        super().__init__(backward=backward)
        self.conv = L1NormConv2d(filters=filters, kernel_size=kernel_size, in_channels=in_channels)
        self.quantizer = LevelQuantizer(thresholds)
        self.quantize = quantize

    def responses(self, x: Tensor) -> Tensor:
        """Normalised responses z = wᵀx / ‖w‖₁, in [−1, 1] up to rounding.

        Args:
            x: Images (N, C, H, W) in [0, 1].

        Returns:
            (N, K, H, W).
        """
        z: Tensor = self.conv(x)
        return z

    def forward(self, x: Tensor) -> Tensor:
        """Levels of the responses to images (N, C, H, W) in [0, 1], or the responses themselves: (N, K, H, W)."""
        if self.kind == "identity":
            with torch.no_grad():
                code = self._code(x)
            return replace_gradient(code, x.sum(1, keepdim=True).expand_as(code))
        return self._code(x)

    def _code(self, x: Tensor) -> Tensor:
        # Channels last: training the convolutions behind then takes three quarters of the time on a CPU.
        z = self.responses(x).contiguous(memory_format=torch.channels_last)
        if self.training and not self.quantize:
            return z
        code: Tensor = self.quantizer(z)
        return code

    def extra_repr(self) -> str:
        """The settings, for `print(model)`."""
        return f"quantize={self.quantize}, backward={self.backward_pass!r}"


def polarizing_front_end(network: nn.Module) -> tuple[str, PolarizingFrontEnd]:
    """Name and layer of a network's one polarizing front end.

    Raises:
        UserError: If there is none, or several.
    """
    found = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, PolarizingFrontEnd)]
    if len(found) != 1:
        raise UserError(
            f"expected a network with one PolarizingFrontEnd, got {len(found)} in {type(network).__name__}; write "
            "Pipeline with stages: [PolarizingFrontEnd, classifier of as many in_channels as there are filters]"
        )
    return found[0]
