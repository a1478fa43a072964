"""Digital corruptions: contrast, saturation, pixelation and JPEG compression."""

from __future__ import annotations

from io import BytesIO

import torch
from torch import Tensor

from lit_robust.corruptions.colour import value
from lit_robust.corruptions.stored import stored
from lit_robust.sampling import Noise


@stored
def contrast(x: Tensor, severity: int, noise: Noise) -> Tensor:
    """Every channel nearer to its own mean over the image."""
    del noise  # the same for every sample
    share = (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1]
    levels = (x * 255).round().long()  # summed in integers, exactly
    mean = (levels.sum((2, 3), keepdim=True) / (255 * x.shape[2] * x.shape[3])).to(x.dtype)
    return mean + share * (x - mean)


@stored
def saturate(x: Tensor, severity: int, noise: Noise) -> Tensor:
    """Another S of HSV at the same hue and V: less at severities 1 and 2, more from 3 on.

    Grey pixels of a colour image count as red, as with the published generator: severities 4 and 5 tint them. Images of
    one channel have no saturation and stay as they are.
    """
    del noise  # the same for every sample
    if x.shape[1] == 1:
        return x
    factor, more = ((0.3, 0.0), (0.1, 0.0), (1.5, 0.0), (2.0, 0.1), (2.5, 0.2))[severity - 1]
    v = value(x)
    range_ = v - x.amin(1, keepdim=True)
    saturation = range_ / v.clamp(min=1e-12)
    wanted = (factor * saturation + more).clamp(max=1)
    red = torch.tensor((0.0, 1.0, 1.0), device=x.device).view(3, 1, 1)
    missing = torch.where(range_ > 0, (v - x) / range_.clamp(min=1e-12), red)  # (V − entry) / (V S)
    return v - v * wanted * missing


@stored
def pixelate(x: Tensor, severity: int, noise: Noise) -> Tensor:
    """The image reduced by averaging whole pixels, and enlarged by repeating them."""
    del noise  # the same for every sample
    share = (0.95, 0.9, 0.85, 0.75, 0.65)[severity - 1]
    levels = (x * 255).round()
    for dim in (3, 2):
        levels = (_reduced(levels, dim, share) + 0.5).floor()
    for dim in (3, 2):
        levels = _enlarged(levels, dim, x.shape[dim])
    return levels / 255


def _reduced(levels: Tensor, dim: int, share: float) -> Tensor:
    """The means of the pixels whose centres lie in each of `share` times as many cells."""
    size = levels.shape[dim]
    cells = max(1, int(size * share))
    scale = size / cells
    centre = (torch.arange(cells, dtype=torch.float64) + 0.5) * scale
    first = (centre - scale / 2 + 0.5).floor().long().clamp(min=0)
    after = (centre + scale / 2 + 0.5).floor().long().clamp(max=size)
    sums = torch.cat([torch.zeros_like(levels.narrow(dim, 0, 1)), levels.cumsum(dim)], dim)  # of integers: exact
    total = sums.index_select(dim, after.to(levels.device)) - sums.index_select(dim, first.to(levels.device))
    shape = [1] * levels.ndim
    shape[dim] = cells
    return total / (after - first).to(levels).view(shape)


def _enlarged(levels: Tensor, dim: int, size: int) -> Tensor:
    cells = levels.shape[dim]
    nearest = ((torch.arange(size, dtype=torch.float64) + 0.5) * (cells / size)).floor().long()
    return levels.index_select(dim, nearest.to(levels.device))


@stored
def jpeg_compression(x: Tensor, severity: int, noise: Noise) -> Tensor:
    """Compression as JPEG, with colours at half the resolution."""
    del noise  # the same for every sample
    quality = (80, 65, 58, 50, 40)[severity - 1]
    levels = (x * 255).round().to(torch.uint8)
    return torch.stack([_compressed(image, quality) for image in levels.cpu()]).to(x) / 255


def _compressed(image: Tensor, quality: int) -> Tensor:
    """One image (C, H, W), uint8."""
    import numpy as np
    from PIL import Image

    file = BytesIO()
    pixels = image[0] if len(image) == 1 else image.permute(1, 2, 0)
    Image.fromarray(pixels.numpy()).save(file, "JPEG", quality=quality)
    decoded = torch.from_numpy(np.array(Image.open(file)))
    return decoded[None] if decoded.ndim == 2 else decoded.permute(2, 0, 1)
