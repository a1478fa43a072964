"""Decoders: from sparse codes back to images."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from lit_robust.errors import UserError


class CodeDecoder(nn.Module):
    """Three transposed convolutions with ReLU, the centre of what they give, clamped to [0, 1] (section 4.2).

    The first has the size and stride of the patches, so that codes of an image that the patches cover become maps of
    its size: (N, 500, 15, 15) to (N, 300, 32, 32), (N, 100, 34, 34), (N, 3, 36, 36), of which the middle 32 x 32 stay.

    Args:
        atoms: Channels of the code, L.
        widths: Channels of the two hidden maps.
        patch: Side of the patches in pixels.
        stride: Distance of neighbouring patches in pixels.
        in_channels: Channels of the images; None follows the data in a config, and is 3 outside one.

    Raises:
        UserError: If a number is below 1, or there are not two widths.
    """

    def __init__(
        self,
        atoms: int,
        widths: Sequence[int] = (300, 100),
        *,
        patch: int = 4,
        stride: int = 2,
        in_channels: int | None = None,
    ) -> None:
        super().__init__()
        first, second, channels = _sizes(atoms, widths, in_channels)
        self.conv1 = nn.ConvTranspose2d(atoms, first, patch, stride=stride)
        self.conv2 = nn.ConvTranspose2d(first, second, 3)
        self.conv3 = nn.ConvTranspose2d(second, channels, 3)

    def forward(self, code: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1].

        Args:
            code: Sparse codes (N, L, H', W').
        """
        return _image(F.relu(self.conv3(F.relu(self.conv2(F.relu(self.conv1(code)))))), margin=2)


class ResizingDecoder(nn.Module):
    """As `CodeDecoder`, but the first map is scaled bicubically instead of strided: the decoder for Imagenette.

    (N, 1000, 39, 39) to (N, 300, 41, 41), scaled to 162 x 162, then (N, 100, 164, 164), (N, 3, 166, 166), of which the
    middle 160 x 160 stay.

    Args:
        atoms: Channels of the code, L.
        widths: Channels of the two hidden maps.
        in_channels: Channels of the images; None follows the data in a config, and is 3 outside one.
        image_shape: (C, H, W) of the images; None follows the data in a config, and is (3, 160, 160) outside one.

    Raises:
        UserError: If a number is below 1, or there are not two widths.
    """

    def __init__(
        self,
        atoms: int,
        widths: Sequence[int] = (300, 100),
        *,
        in_channels: int | None = None,
        image_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        first, second, channels = _sizes(atoms, widths, in_channels)
        height, width = (160, 160) if image_shape is None else tuple(image_shape)[1:]
        self.scaled = (height + 2, width + 2)
        self.conv1 = nn.ConvTranspose2d(atoms, first, 3)
        self.conv2 = nn.ConvTranspose2d(first, second, 3)
        self.conv3 = nn.ConvTranspose2d(second, channels, 3)

    def forward(self, code: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1].

        Args:
            code: Sparse codes (N, L, H', W').
        """
        maps = F.interpolate(F.relu(self.conv1(code)), size=self.scaled, mode="bicubic", align_corners=False)
        return _image(F.relu(self.conv3(F.relu(self.conv2(maps)))), margin=3)


def _sizes(atoms: int, widths: Sequence[int], channels: int | None) -> tuple[int, int, int]:
    sizes = [atoms, *widths, 3 if channels is None else channels]
    if len(sizes) != 4 or min(sizes) < 1:
        raise UserError(
            f"expected atoms, two widths and channels of a decoder, each at least 1, got atoms {atoms}, widths "
            f"{list(widths)} and channels {channels}"
        )
    return sizes[1], sizes[2], sizes[3]


def _image(maps: Tensor, margin: int) -> Tensor:
    return maps[:, :, margin:-margin, margin:-margin].clamp(max=1.0)
