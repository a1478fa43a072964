"""Random crops and flips of a whole batch, on its device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_robust.errors import UserError
from lit_robust.sampling import Noise


@dataclass(frozen=True)
class Augment:
    """A crop at a random place of the image padded with zeros, then a horizontal flip of every other image.

    What a sample becomes depends on its key alone, neither on its batch nor on the device.

    Args:
        pad: Width of the padding on each side in pixels; 0 leaves the crop out.
        flip: Whether to flip; not for digits or letters.

    Raises:
        UserError: If `pad` is negative.
    """

    pad: int = 4
    flip: bool = True

    def __post_init__(self) -> None:
        if self.pad < 0:
            raise UserError(f"expected data.augment.pad of at least 0 pixels, got {self.pad}")

    def __call__(self, x: Tensor, key: Tensor) -> Tensor:
        """Augments a batch.

        Args:
            x: Images (N, C, H, W), of any type.
            key: One noise stream a sample, (N,) int64.

        Returns:
            (N, C, H, W), of the type of `x`.
        """
        n, channels, height, width = x.shape
        top, left, mirror = Noise(key).uniform("augment", (3,)).unbind(1)
        rows = torch.arange(height, device=x.device) + self._offset(top)
        columns = torch.arange(width, device=x.device).expand(n, width)
        if self.flip:
            columns = torch.where(mirror[:, None] < 0.5, columns.flip(1), columns)
        columns = columns + self._offset(left)
        padded = F.pad(x, (self.pad,) * 4)
        pixels = (rows * padded.shape[3])[:, :, None] + columns[:, None, :]  # (N, H, W), positions in a padded plane
        return padded.flatten(2).gather(2, pixels.view(n, 1, -1).expand(-1, channels, -1)).view(x.shape)

    def crops(self, images: Sequence[Tensor], key: Tensor, size: tuple[int, int]) -> Tensor:
        """Augments images of different sizes to one size; those that have it become what they do in a batch.

        Args:
            images: N images (C, H, W), of any type; no side is below `size`.
            key: One noise stream a sample, (N,) int64.
            size: Height and width of the crops.

        Returns:
            (N, C, *size), of the type of the images.
        """
        height, width = size
        out = images[0].new_empty(len(images), images[0].shape[0], height, width)
        for i, (vertical, horizontal, mirror) in enumerate(Noise(key).uniform("augment", (3,)).tolist()):
            padded = F.pad(images[i], (self.pad,) * 4)
            top = int(vertical * (padded.shape[1] - height + 1))
            left = int(horizontal * (padded.shape[2] - width + 1))
            crop = padded[:, top : top + height, left : left + width]
            out[i] = crop.flip(2) if self.flip and mirror < 0.5 else crop
        return out

    def _offset(self, uniform: Tensor) -> Tensor:
        return (uniform * (2 * self.pad + 1)).long()[:, None]
