"""Which channels of a layer are active, and how strongly: what a Hebbian cost works on, and how it is cheated."""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_robust.errors import UserError

ALWAYS = 0.95  # a channel that is active on this share of the images or more is nearly always active
NEVER = 0.05  # on less than this share: nearly never
_EPS = 1e-6  # added to the patch norms, as in the published code


class Disparity(NamedTuple):
    """Mean activations of each image, (N,) each.

    Attributes:
        top: Of the strongest channels at each location.
        rest: Of the other channels.
    """

    top: Tensor
    rest: Tensor


def strongest(channels: int, fraction: float) -> int:
    """K = ⌈fraction · channels⌉, the number of channels that count as the strongest.

    Args:
        channels: Channels of the layer.
        fraction: Share of the strongest, in (0, 1).

    Raises:
        UserError: If the fraction is out of range, or no channel is left for the rest.
    """
    if not 0 < fraction < 1:
        raise UserError(f"expected a fraction of the channels in (0, 1), got {fraction}")
    count = ceil(round(fraction * channels, 9))  # 0.07 · 100 is a little over 7 in floating point
    if count >= channels:
        raise UserError(f"a fraction of {fraction} is all of {channels} channels, which leaves none for the rest")
    return count


def patch_norms(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """L2 norms of the patches that a convolution sees, by a convolution of ones over the squares.

    Args:
        x: Input of the convolution, (N, C, H, W).
        conv: The convolution, whose kernel size, stride, padding, dilation and groups count.

    Returns:
        (N, 1, H', W'), or (N, out_channels, H', W') for a convolution in groups, whose channels see different patches.
    """
    squares = x.square().reshape(len(x), conv.groups, -1, *x.shape[2:]).sum(2)
    padding: str | tuple[int, ...] = conv.padding
    if conv.padding_mode != "zeros":
        squares = F.pad(squares, conv._reversed_padding_repeated_twice, mode=conv.padding_mode)
        padding = (0, 0)
    ones = squares.new_ones(conv.groups, 1, *conv.kernel_size)
    sums = F.conv2d(squares, ones, None, conv.stride, padding, conv.dilation, conv.groups)
    norms = sums.clamp(min=0).sqrt()  # a fast convolution may round a sum of nothing below 0
    return norms if conv.groups == 1 else norms.repeat_interleave(conv.out_channels // conv.groups, dim=1)


def disparity(activations: Tensor, *, fraction: float = 0.1, norms: Tensor | None = None) -> Disparity:
    """Mean of the K strongest channels and mean of the others, over locations; K = ⌈fraction · C⌉.

    The two terms of the Hebbian cost (dissertation, Eq. 5.4) before their weights.

    Args:
        activations: Output of a layer, (N, C, H, W) or (N, C), not negative.
        fraction: Share of the channels that count as the strongest.
        norms: Norms that activations are divided by (plus 1e-6), such as `patch_norms`; broadcast. None for none.

    Raises:
        UserError: As `strongest`.
    """
    count = strongest(activations.shape[1], fraction)
    scaled = activations if norms is None else activations / (norms + _EPS)
    top = scaled.topk(count, dim=1, sorted=False).values.sum(1)
    rest = (scaled.sum(1) - top).clamp(min=0)  # rounding may leave less than nothing
    others = activations.shape[1] - count
    return Disparity(top.reshape(len(top), -1).mean(1) / count, rest.reshape(len(rest), -1).mean(1) / others)


def channel_means(activations: Tensor) -> Tensor:
    """Mean of each channel's activation over space, after a ReLU, (N, C).

    Args:
        activations: Output of a layer, (N, C, H, W) or (N, C).
    """
    positive = activations.relu()
    return positive.mean((2, 3)) if positive.ndim == 4 else positive


def most_active(means: Tensor, *, fraction: float = 0.1) -> Tensor:
    """The channels that are active on each image: the K of the largest means, K = ⌈fraction · C⌉.

    Args:
        means: Mean activations of the channels, (N, C), not negative.
        fraction: Share of the channels that are active.

    Returns:
        Numbers of the channels, (N, K) int64, the most active first, of equal ones the first; −1 in place of a channel
        that is silent.

    Raises:
        UserError: As `strongest`.
    """
    count = strongest(means.shape[1], fraction)
    values, channels = means.sort(dim=1, descending=True, stable=True)
    return torch.where(values > 0, channels, -1)[:, :count]


def activity_rates(active: Tensor, channels: int) -> Tensor:
    """Share of the images on which each channel is active, (channels,) float64.

    Args:
        active: Numbers of the active channels of each image, (N, K); −1 is none.
        channels: Channels of the layer.
    """
    counts = torch.bincount(active[active >= 0].flatten(), minlength=channels)
    return counts.double() / max(len(active), 1)


def nearly_always(rates: Tensor) -> float:
    """Share of the channels that are active on 95 % of the images or more.

    Since K channels are active on each image, it is at most K / (0.95 · C). Near that, one set of channels is active
    whatever the image is, which satisfies a Hebbian cost and tells nothing: "cheating" (dissertation, Fig. 5.3).

    Args:
        rates: Share of the images on which each channel is active, (C,).
    """
    return float((rates >= ALWAYS - 1e-9).double().mean())


def nearly_never(rates: Tensor) -> float:
    """Share of the channels that are active on less than 5 % of the images.

    Args:
        rates: Share of the images on which each channel is active, (C,).
    """
    return float((rates < NEVER - 1e-9).double().mean())
