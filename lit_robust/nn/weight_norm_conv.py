"""Convolution with implicit weight normalisation."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn


class WeightNormConv2d(nn.Conv2d):
    """A convolution whose filters count with unit L2 norm, ⟨w, x⟩ / ‖w‖₂ (dissertation, Eq. 5.1, before the ReLU).

    The stored weights are not rescaled; the division is differentiated. So each output is the projection of the input
    onto the direction of a filter, and a layer gains nothing by longer filters.

    Args:
        in_channels: Channels that come in.
        out_channels: Channels that go out.
        kernel_size: Side of the filters.
        eps: Added to the norm, as in the published code.
        bias: Whether there is a bias, which is not normalised.
        **options: The other arguments of `torch.nn.Conv2d`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int] = 3,
        *,
        eps: float = 1e-6,
        bias: bool = False,
        **options: Any,  # noqa: ANN401 - of nn.Conv2d
    ) -> None:
        super().__init__(in_channels, out_channels, cast(Any, kernel_size), bias=bias, **options)
        self.eps = eps

    @property
    def direction(self) -> Tensor:
        """The filters divided by their norms, (out_channels, in_channels / groups, k, k)."""
        norm = torch.linalg.vector_norm(self.weight, dim=(1, 2, 3), keepdim=True)
        direction: Tensor = self.weight / (norm + self.eps)
        return direction

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H', W')."""
        return cast(Tensor, self._conv_forward(x, self.direction, self.bias))
