"""Divisive normalisation: channels compete at every location, and weak locations are held down."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lit_robust.errors import UserError

_PART = 16  # samples that are pooled at a time: what is then in the way of the mean fits into the processor's cache
SILENT = 1e-6  # an image whose largest channel mean is below this gets nothing through a block


class DivisiveNorm(nn.Module):
    """z = y / (σ · max_loc M + (1 − σ) · M), with M the mean over channels at a location (dissertation, Eq. 5.2).

    With `field: 1` that is the text's form. With `field: 3` M is the mean of the activations after 3×3 max-pooling with
    stride 1, as in the published code. Where the denominator is 0 the output is 0. Multiplying an image's activations
    by a positive number changes nothing (by a power of two not a bit), unless `offset` is set.

    Args:
        channels: Channels of the activations.
        sigma: σ, in [0, 1]: 0 normalises each location by itself, 1 the image as a whole.
        field: Side of the field that suppresses a location, odd.
        offset: Added to the denominator; the published code has 1e-7. It is not called `eps`, since a config that puts
            batch normalisation in this layer's place keeps settings of the same name.

    Attributes:
        silent: In training, the share of the last batch's images whose largest M is below 1e-6, a 0-d tensor.

    Raises:
        UserError: If `sigma` or `field` is outside its range.
    """

    silent: Tensor | None

    def __init__(self, channels: int, *, sigma: float = 0.1, field: int = 3, offset: float = 0.0) -> None:
        super().__init__()
        if not 0 <= sigma <= 1:
            raise UserError(f"expected sigma of divisive normalisation in [0, 1], got {sigma}")
        if field < 1 or field % 2 == 0:
            raise UserError(f"expected field of divisive normalisation to be 1, 3 or another odd number, got {field}")
        if not offset >= 0:
            raise UserError(f"expected offset of divisive normalisation to be 0 or more, got {offset}")
        self.channels, self.sigma, self.field, self.offset = channels, sigma, field, offset
        self.silent = None

    def forward(self, y: Tensor) -> Tensor:
        """Normalised activations.

        Args:
            y: Activations after a ReLU, (N, channels, H, W), not negative.

        Returns:
            (N, channels, H, W).
        """
        z, strongest = _Divide.apply(y, self.sigma, self.field, self.offset)
        if self.training:
            self.silent = (strongest < SILENT).float().mean()
        normalised: Tensor = z
        return normalised

    def extra_repr(self) -> str:
        """The settings."""
        settings = f"{self.channels}, sigma={self.sigma}, field={self.field}"
        return f"{settings}, offset={self.offset}" if self.offset else settings


class _Divide(torch.autograd.Function):
    """Forward and backward by hand: only the activations are kept, which the ReLU before it keeps too."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, sigma: float, field: int, offset: float) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        mean = _channel_mean(y, field).contiguous()
        strongest, where = mean.flatten(1).max(1)
        denominator = (1 - sigma) * mean + (sigma * strongest).view(-1, 1, 1, 1) + offset
        denominator = torch.where(denominator > 0, denominator, torch.inf)  # and the quotient is 0
        z = y / denominator
        ctx.save_for_backward(y, denominator, where)
        ctx.sigma, ctx.field = sigma, field
        ctx.mark_non_differentiable(strongest)
        return z, strongest

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:  # noqa: ANN401
        y, denominator, where = ctx.saved_tensors
        inverse = 1 / denominator
        own = grad * inverse
        # d z / d denominator = −y / denominator²; the largest mean passes on what all locations ask of it.
        of_denominator = (own * y).sum(1, keepdim=True).mul_(-inverse)
        flat = of_denominator.flatten(1)
        of_mean = (1 - ctx.sigma) * flat
        of_mean.scatter_add_(1, where[:, None], ctx.sigma * flat.sum(1, keepdim=True))
        share = (of_mean / y.shape[1]).view_as(denominator)
        if ctx.field == 1:
            return own.add_(share), None, None, None
        for part, of_part, y_part in zip(*(torch.split(t, _PART) for t in (own, share, y)), strict=True):
            part.add_(_unpool(y_part, of_part, ctx.field))
        return own, None, None, None


def _channel_mean(y: Tensor, field: int) -> Tensor:
    """Mean over the channels, after max-pooling where the field is larger than 1; (N, 1, H, W)."""
    if field == 1:
        return y.mean(1, keepdim=True)
    pooled = (F.max_pool2d(_channels_last(part), field, 1, field // 2) for part in torch.split(y, _PART))
    return torch.cat([part.mean(1, keepdim=True) for part in pooled])


def _unpool(y: Tensor, grad: Tensor, field: int) -> Tensor:
    """Gradient of max-pooling with stride 1; `grad`, (N, 1, H, W), is the same for all channels."""
    y = _channels_last(y)
    size, stride, padding, dilation = [field] * 2, [1, 1], [field // 2] * 2, [1, 1]
    _, indices = F.max_pool2d(y, field, 1, field // 2, return_indices=True)
    expanded = _channels_last(grad.expand_as(y))
    pooled: Tensor = torch.ops.aten.max_pool2d_with_indices_backward(
        expanded, y, size, stride, padding, dilation, False, indices
    )
    return pooled


def _channels_last(y: Tensor) -> Tensor:
    # Max-pooling with stride 1 is several times faster this way, also counting the copy.
    return y.contiguous(memory_format=torch.channels_last)
