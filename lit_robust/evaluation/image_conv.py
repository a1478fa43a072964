"""The convolution that reads the image, with a faster gradient in the image on a CPU."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_FEW = 4  # channels: with more, the library's own gradient is the faster one


class ImageConv(nn.Module):
    """A convolution of few input channels that computes the gradient in its input as a product and shifted sums.

    The library's gradient takes several times as long as the forward pass where channels are few: an attack on a small
    network then spends more time there than anywhere else.

    Args:
        conv: The convolution, whose weights it shares.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        """As the convolution, (N, C, H, W)."""
        out: Tensor = _Product.apply(x, self.conv.weight, self.conv.bias, self.conv.stride, self.conv.padding)
        return out

    @staticmethod
    def fits(conv: nn.Module) -> bool:
        """Whether a layer is a convolution that this computes faster."""
        return (
            type(conv) is nn.Conv2d
            and conv.in_channels <= _FEW
            and conv.groups == 1
            and conv.dilation == (1, 1)
            and conv.padding_mode == "zeros"
            and isinstance(conv.padding, tuple)
            and conv.weight.device.type == "cpu"
        )


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - autograd's own type
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
    ) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.shape, ctx.stride, ctx.padding = x.shape, stride, padding
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        (weight,), (down, across), (top, left) = ctx.saved_tensors, ctx.stride, ctx.padding
        n, channels, height, width = ctx.shape
        out, _, tall, wide = weight.shape
        grad = grads[0].permute(0, 2, 3, 1)  # (N, H', W', out), contiguous if channels are stored last
        rows, columns = grad.shape[1:3]
        # What each output position sends back to the entries of its window, then each entry's sum over the windows.
        sent = (grad.reshape(-1, out) @ weight.reshape(out, -1)).view(n, rows, columns, channels, tall, wide)
        image = grad.new_zeros(n, height + 2 * top, width + 2 * left, channels)
        for i in range(tall):
            for j in range(wide):
                image[:, i : i + rows * down : down, j : j + columns * across : across] += sent[..., i, j]
        inside = image[:, top : top + height, left : left + width]
        return inside.permute(0, 3, 1, 2), None, None, None, None
