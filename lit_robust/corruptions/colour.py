"""Colours of images with one channel or three."""

from __future__ import annotations

import torch
from torch import Tensor

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def value(x: Tensor) -> Tensor:
    """V of HSV, the largest channel: (N, 1, H, W)."""
    return x.amax(1, keepdim=True)


def luma(x: Tensor) -> Tensor:
    """The grey version of colour images, and grey images themselves: (N, 1, H, W)."""
    if x.shape[1] == 1:
        return x
    red, green, blue = (weight * channel for weight, channel in zip(_LUMA, x.unbind(1), strict=True))
    return (red + green + blue)[:, None]


def colour(red: int, green: int, blue: int, like: Tensor) -> Tensor:
    """One colour of 256 levels a channel, (C, 1, 1); for grey images its luma."""
    rgb = torch.tensor((red, green, blue), device=like.device).view(1, 3, 1, 1) / 255
    return (rgb if like.shape[1] == 3 else luma(rgb))[0]
