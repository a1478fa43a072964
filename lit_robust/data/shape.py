"""Bringing images to one size and one number of channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_robust.errors import UserError

Resize = Literal["resize", "pad"]

_LUMA = (19595, 38470, 7471)  # ITU-R BT.601 in 16 bits, the weights that Pillow uses
_CHUNK = 256  # images that are in floating point at a time


def conform(x: Tensor, *, size: int | None = None, channels: int | None = None, resize: Resize = "resize") -> Tensor:
    """Images with the given side and channels; what they have already is left untouched, bit for bit.

    Args:
        x: Images (N, C, H, W), uint8.
        size: Side of the result in pixels, or None to keep H and W.
        channels: 1 or 3, or None to keep C. Grey becomes colour by repetition, colour becomes grey by its luma.
        resize: `"resize"` scales bilinearly (antialiased) until the shorter side is `size`, then crops the centre;
            `"pad"` puts zeros around, one more below and to the right where the difference is odd.

    Returns:
        Images (N, channels, size, size), uint8.

    Raises:
        UserError: If padding would have to shrink, or for channels other than 1 and 3.
    """
    if channels is not None and channels != x.shape[1] and {channels, x.shape[1]} != {1, 3}:
        raise UserError(f"channels can go from 1 to 3 or from 3 to 1, not from {x.shape[1]} to {channels}")
    if channels == 1 and x.shape[1] == 3:
        x = _chunked(_grey, x)
    if size is not None and x.shape[2:] != (size, size):
        x = _pad(x, size) if resize == "pad" else _chunked(lambda chunk: _scale(chunk, size), x)
    if channels == 3 and x.shape[1] == 1:
        x = x.repeat(1, 3, 1, 1)
    return x


def _chunked(change: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return torch.cat([change(chunk) for chunk in torch.split(x, _CHUNK)])


def _grey(x: Tensor) -> Tensor:
    weights = torch.tensor(_LUMA, dtype=torch.int32).view(3, 1, 1)
    return ((x * weights).sum(1, keepdim=True, dtype=torch.int32) + 0x8000 >> 16).to(torch.uint8)


def _pad(x: Tensor, size: int) -> Tensor:
    height, width = x.shape[2:]
    if max(height, width) > size:
        raise UserError(
            f"resize: pad cannot bring images of {height} x {width} pixels to size {size}; "
            "choose a larger data.size, or data.resize=resize"
        )
    top, left = (size - height) // 2, (size - width) // 2
    return F.pad(x, (left, size - width - left, top, size - height - top))


def _scale(x: Tensor, size: int) -> Tensor:
    shorter = min(x.shape[2:])
    height, width = (max(size, round(side * size / shorter)) for side in x.shape[2:])
    scaled = F.interpolate(x.float(), size=(height, width), mode="bilinear", align_corners=False, antialias=True)
    top, left = (height - size) // 2, (width - size) // 2
    return scaled[:, :, top : top + size, left : left + size].round().clamp(0, 255).to(torch.uint8)
