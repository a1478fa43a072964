"""Weather: snow, fog, frost and brightness."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_robust.corruptions import filters
from lit_robust.corruptions.colour import luma, value
from lit_robust.corruptions.plasma import plasma
from lit_robust.corruptions.stored import coarse_size, relative_side, stored
from lit_robust.sampling import Noise

_ICE = (0.88, 0.96, 1.0)  # red, green and blue of frost


@stored
def fog(x: Tensor, severity: int, noise: Noise) -> Tensor:
    """A fractal surface added to the image, which is then brought back to its own maximum."""
    amount, decay = ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))[severity - 1]
    highest = x.amax((1, 2, 3), keepdim=True)
    layer = plasma(noise, "fog", (x.shape[2], x.shape[3]), decay=decay, draw=severity)
    return (x + amount * layer) * (highest / (highest + amount))


@stored
def snow(x: Tensor, severity: int, noise: Noise) -> Tensor:
    """Flakes that a gust has drawn out, over an image that is paler than before.

    Flakes are the largest values of white noise, magnified and blurred along a direction; the same flakes lie on the
    image twice, once turned by 180 degrees.
    """
    mean, sigma, size, least, radius, length, kept = (
        (0.1, 0.2, 1.0, 0.6, 8, 3.0, 0.95),
        (0.1, 0.2, 1.0, 0.5, 10, 4.0, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4.0, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6.0, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12.0, 0.8),
    )[severity - 1]
    side = relative_side(x)
    layer = mean + sigma * noise.normal("snow", (1, *coarse_size(x)), draw=severity)
    layer = filters.magnify(layer, size)
    layer = filters.resized(torch.where(layer < least, 0.0, layer.clamp(0, 1)), x)
    degrees = 90 * noise.uniform("snow/direction", (), draw=severity) - 135
    flakes = filters.streak(layer, degrees, radius=radius * side, sigma=length * side)
    flakes = (flakes * 255).round() / 255
    pale = torch.maximum(x, 1.5 * luma(x) + 0.5)
    return kept * x + (1 - kept) * pale + (flakes + flakes.flip(2, 3))


@stored
def frost(x: Tensor, severity: int, noise: Noise) -> Tensor:
    """Ice crystals over a darker image.

    The published frost is cut out of five photographs of frozen windows. Here it is drawn: a fractal surface says where
    the ice is thick, and on thick ice six-armed stars are dense.
    """
    image, ice = ((1.0, 0.2), (1.0, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))[severity - 1]
    layer = _ice(x, severity, noise)
    tint = torch.tensor(_ICE, device=x.device).view(3, 1, 1)
    return image * x + ice * (layer * tint if x.shape[1] == 3 else luma(layer * tint))


def _ice(x: Tensor, severity: int, noise: Noise) -> Tensor:
    """The thickness of ice in [0, 1], (N, 1, H, W)."""
    size = (x.shape[2], x.shape[3])
    thick = plasma(noise, "frost/patches", size, decay=1.6, draw=severity)
    rough = plasma(noise, "frost/grain", size, decay=1.2, draw=severity)
    dense = 0.01 + 0.07 * thick**2
    seeds = noise.uniform("frost/seeds", (1, *coarse_size(x)), draw=severity)
    seeds = (seeds < filters.resized(dense, seeds)).to(x)
    turned = 60 * noise.uniform("frost/direction", (), draw=severity)
    arms = [filters.streak(seeds, turned + 60 * k, radius=4, sigma=2) for k in range(6)]
    stars = filters.resized((1.3 * torch.stack(arms).sum(0)).clamp(max=1), x)
    return (0.12 + 0.6 * thick * (0.4 + 0.6 * rough) + 0.75 * stars * (0.3 + 0.7 * thick)).clamp(max=1)


@stored
def brightness(x: Tensor, severity: int, noise: Noise) -> Tensor:
    """More of V, the largest channel, at the same hue and saturation."""
    del noise  # the same for every sample
    v = value(x)
    brighter = (v + (0.05, 0.10, 0.15, 0.20, 0.30)[severity - 1]).clamp(max=1)
    return torch.where(v > 0, x * (brighter / v.clamp(min=1e-12)), brighter)  # black has no hue and becomes grey
