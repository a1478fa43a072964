"""Fractal surfaces."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_robust.sampling import Noise


def plasma(noise: Noise, purpose: str, size: tuple[int, int], *, decay: float, draw: int = 0) -> Tensor:
    """Periodic fractal surfaces (diamond-square algorithm; Fournier, Fussell and Carpenter, 1982), scaled to [0, 1].

    A grid is refined by halves: each new point is the mean of its four neighbours plus a uniform number, whose range is
    divided by decay² from one refinement to the next. The larger `decay`, the smoother the surface.

    Args:
        noise: Streams of the samples.
        purpose: What the surface is for.
        size: Height and width in pixels; a part of a square whose side is a power of 2.
        decay: Smoothness, above 1.
        draw: Number of the draw.

    Returns:
        (N, 1, H, W).
    """
    side = 1 << max(1, (max(size) - 1).bit_length())
    surface = torch.zeros(len(noise.key), side, side, device=noise.key.device)
    step, spread = side, 1.0
    while step >= 2:
        half = step // 2
        shape = (3, side // step, side // step)
        wobble = spread * (2 * noise.uniform(purpose, shape, step=side // step, draw=draw) - 1)
        corners = surface[:, ::step, ::step]
        across = corners + corners.roll(-1, 2)
        centres = (across + across.roll(-1, 1)) / 4 + wobble[:, 0]
        surface[:, half::step, half::step] = centres
        surface[:, ::step, half::step] = (across + centres + centres.roll(1, 1)) / 4 + wobble[:, 1]
        down = corners + corners.roll(-1, 1)
        surface[:, half::step, ::step] = (down + centres + centres.roll(1, 2)) / 4 + wobble[:, 2]
        step, spread = half, spread / decay**2
    low, high = surface.amin((1, 2), keepdim=True), surface.amax((1, 2), keepdim=True)
    scaled = (surface - low) / (high - low).clamp(min=1e-12)
    return scaled[:, None, : size[0], : size[1]]
