"""Convolution whose outputs are divided by the L1 norms of their filters."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from lit_robust.errors import UserError

_FLOOR = 1e-12  # added to the norm, as in the published code


class L1NormConv2d(nn.Conv2d):
    """Responses z = wᵀx / ‖w‖₁ of filters to image patches (dissertation, section 4.1.3).

    They are in [−1, 1] for images in [0, 1]. A perturbation of at most eps a pixel moves z by at most eps, whatever the
    filter (Hölder's inequality). The stored filters are not rescaled, and the division is differentiated. Filters start
    uniform as for a ReLU (He et al., 2015); the image keeps its size, with zeros around it.

    Args:
        filters: Number of filters.
        kernel_size: Side of the filters, odd.
        in_channels: Channels of the images; None follows the data in a config, and is 1 outside one.

    Raises:
        UserError: If a number is below 1, or `kernel_size` is even.
    """

    def __init__(self, *, filters: int = 25, kernel_size: int = 5, in_channels: int | None = None) -> None:
        channels = 1 if in_channels is None else in_channels
        if filters < 1 or channels < 1:
            raise UserError(f"expected filters and in_channels of at least 1, got {filters} and {channels}")
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise UserError(
                f"expected an odd kernel_size of at least 1, which keeps the size of the image, got {kernel_size}"
            )
        super().__init__(channels, filters, kernel_size, padding=kernel_size // 2, bias=False)

    def reset_parameters(self) -> None:
        """Draws the filters, U(−√(6/n), √(6/n)) for n taps a filter."""
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")

    @property
    def direction(self) -> Tensor:
        """The filters divided by their L1 norms, (filters, in_channels, k, k)."""
        norm = torch.linalg.vector_norm(self.weight, ord=1, dim=(1, 2, 3), keepdim=True)
        direction: Tensor = self.weight / (norm + _FLOOR)
        return direction

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, filters, H, W)."""
        return cast(Tensor, self._conv_forward(x, self.direction, None))
