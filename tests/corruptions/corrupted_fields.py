"""Images to corrupt, and their noise: random fields with a grain and a sharp rectangle, of 256 levels."""

import torch
import torch.nn.functional as F

from lit_robust.sampling import Noise, keys


def fields(n=8, channels=3, height=32, width=32):
    draws = torch.Generator().manual_seed(7)
    coarse = torch.rand(n, channels, 6, 6, generator=draws)
    x = F.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1)
    grain = torch.rand(n, channels, 18, 18, generator=draws) - 0.5
    x = (x + 0.3 * F.interpolate(grain, size=(height, width), mode="bicubic")).clamp(0, 1)
    x[:, :, height // 4 : height // 2, width // 3 : width // 2] = 0.85
    x[:, :1, height // 2 :, : width // 4] *= 0.3
    return levels(x) / 255


def constant(value, n=4, channels=3, side=32):
    return torch.full((n, channels, side, side), value / 255)


def noise(n=8, seed=0):
    return Noise(keys(torch.arange(n), seed=seed))


def levels(x):
    return (x * 255).round()


def distortion(x, y):
    """Mean L2 distance of the images."""
    return float((x - y).flatten(1).norm(dim=1).mean())
