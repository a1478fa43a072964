"""A 2-D convolution as the linear map of whole feature maps that it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

from lit_robust.errors import UserError

Pair = tuple[int, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class ConvOperator:
    """A convolution without its bias, on maps of one size, in float64 on the CPU. Pairs are (vertical, horizontal).

    Attributes:
        weight: Filters, (C_out, C_in / groups, k_h, k_w).
        size: (H, W) of the maps that come in.
        stride: Steps of the filters.
        dilation: Distances of their taps.
        padding: Rows and columns around the maps: top, bottom, left, right.
        padding_mode: What is in them, as of `torch.nn.Conv2d`.
        groups: Groups of channels that do not mix.
    """

    weight: Tensor
    size: Pair
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    padding_mode: str = "zeros"
    groups: int = 1

    @classmethod
    def of(cls, layer: nn.Conv2d, size: Sequence[int]) -> ConvOperator:
        """The operator of a layer, with the filters that count where they are normalised (`direction`).

        Args:
            layer: The convolution.
            size: (H, W) of its input.

        Raises:
            UserError: If the layer is no 2-D convolution.
        """
        if not isinstance(layer, nn.Conv2d):
            raise UserError(f"expected a 2-D convolution, got {type(layer).__name__}")
        direction = getattr(layer, "direction", None)
        weight = direction if isinstance(direction, Tensor) else layer.weight
        return cls(
            weight=weight.detach().to("cpu", torch.float64),
            size=(size[0], size[1]),
            stride=cast(Pair, layer.stride),
            dilation=cast(Pair, layer.dilation),
            padding=_padding(layer),
            padding_mode=layer.padding_mode,
            groups=layer.groups,
        )

    @property
    def in_shape(self) -> tuple[int, int, int]:
        """(C_in, H, W)."""
        return self.weight.shape[1] * self.groups, *self.size

    @property
    def out_shape(self) -> tuple[int, int, int]:
        """(C_out, H', W')."""
        taps = zip(self._padded, self.weight.shape[2:], self.stride, self.dilation, strict=True)
        height, width = ((have - d * (k - 1) - 1) // s + 1 for have, k, s, d in taps)
        return self.weight.shape[0], height, width

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of its matrix."""
        return prod(self.out_shape), prod(self.in_shape)

    @property
    def squared_norm(self) -> float:
        """Sum of all squared singular values, in closed form: how often each tap meets a pixel, times its square."""
        self.check_zeros()
        seen = F.pad(torch.ones(1, self.in_shape[0], *self.size, dtype=torch.float64), self._pads)
        return float(F.conv2d(seen, self.weight.square(), None, self.stride, 0, self.dilation, self.groups).sum())

    def __call__(self, x: Tensor) -> Tensor:
        """Maps (N, C_in, H, W) to (N, C_out, H', W')."""
        self.check_zeros()
        return F.conv2d(F.pad(x, self._pads), self.weight, None, self.stride, 0, self.dilation, self.groups)

    def adjoint(self, y: Tensor) -> Tensor:
        """The transpose, (N, C_out, H', W') to (N, C_in, H, W)."""
        self.check_zeros()
        padded = (len(y), self.in_shape[0], *self._padded)
        x: Tensor = conv2d_input(  # type: ignore[no-untyped-call]
            padded, self.weight, y, self.stride, 0, self.dilation, self.groups
        )
        top, _, left, _ = self.padding
        return x[:, :, top : top + self.size[0], left : left + self.size[1]]

    def check_zeros(self) -> None:
        """Refuses a padding other than by zeros.

        Raises:
            UserError: If that is the layer's.
        """
        if self.padding_mode != "zeros" and any(self.padding):
            raise UserError(
                f"expected a convolution that pads with zeros, got padding_mode={self.padding_mode!r}; singular values "
                "for circular padding are those of circular_singular_values (padding: circular in a config)"
            )

    @property
    def _padded(self) -> Pair:
        top, bottom, left, right = self.padding
        return self.size[0] + top + bottom, self.size[1] + left + right

    @property
    def _pads(self) -> list[int]:
        top, bottom, left, right = self.padding
        return [left, right, top, bottom]


def _padding(layer: nn.Conv2d) -> tuple[int, int, int, int]:
    """Top, bottom, left, right; "same" has one more at the end where the number is odd."""
    if layer.padding == "valid":
        return 0, 0, 0, 0
    if layer.padding == "same":
        rows, columns = (d * (k - 1) for k, d in zip(layer.kernel_size, layer.dilation, strict=True))
        return rows // 2, rows - rows // 2, columns // 2, columns - columns // 2
    rows, columns = cast(Pair, layer.padding)
    return rows, rows, columns, columns
