"""Spatter: drops of water or mud on the lens."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_robust.corruptions import filters
from lit_robust.corruptions.colour import colour
from lit_robust.corruptions.edges import canny, distance, equalised
from lit_robust.corruptions.stored import relative_side, stored
from lit_robust.sampling import Noise

_WATER = (175, 238, 238)
_MUD = (63, 42, 20)
_REACH = 20  # pixels from an edge beyond which a drop is equally thick
_RELIEF = torch.tensor([[-2.0, -1.0, 0.0], [-1.0, 1.0, 1.0], [0.0, 1.0, 2.0]])  # light from one side
_MEAN = torch.full((3, 3), 1.0)


@stored
def spatter(x: Tensor, severity: int, noise: Noise) -> Tensor:
    """Water at severities 1 to 3, mud at 4 and 5, where smoothed noise exceeds a threshold.

    Water is pale turquoise, and as bright as its relief: the distance to the nearest edge of a drop, equalised and lit
    from one side. (The distance is Euclidean, where the published generator takes an approximation of it.) Mud is
    opaque.
    """
    mean, sigma, size, least, share = (
        (0.62, 0.1, 0.7, 0.7, 0.5),
        (0.65, 0.1, 0.8, 0.7, 0.5),
        (0.65, 0.3, 1.0, 0.69, 0.5),
        (0.65, 0.1, 0.7, 0.69, 0.6),
        (0.65, 0.1, 0.5, 0.68, 0.6),
    )[severity - 1]
    side = relative_side(x)
    white = noise.normal("spatter", (1, *x.shape[2:]), draw=severity)
    # Drops that are larger, in larger images, are as frequent: smoothing must leave noise of the same deviation.
    kept = _kept(size) / _kept(size * side)
    liquid = mean + sigma * kept * filters.gaussian(white, size * side)
    if severity <= 3:
        water = _relief(torch.where(liquid < least, 0.0, liquid), side)
        return x + share * water * colour(*_WATER, like=x)
    mud = filters.gaussian((liquid > least).to(x), share * side)
    mud = torch.where(mud < 0.8, 0.0, mud)
    return x * (1 - mud) + mud * colour(*_MUD, like=x)


def _kept(sigma: float) -> float:
    """The deviation of white noise of deviation 1 after a Gaussian filter in two dimensions."""
    return sum(weight**2 for weight in filters.gaussian_weights(sigma, int(4 * sigma + 0.5)))


def _relief(liquid: Tensor, side: float) -> Tensor:
    """The brightness of water in [0, 1], (N, 1, H, W), the largest of an image 1."""
    levels = (liquid * 255).floor().remainder(256)  # the published files wrap around above 255, in the thickest drops
    depth = distance(canny(levels, 50, 150), max(1, round(_REACH * side)))
    depth = (filters.correlate(depth, _MEAN) / 9 + 1e-4).floor()  # a mean that should be whole is not rounded down
    lit = filters.correlate(equalised(depth.clamp(max=255)), _RELIEF).clamp(0, 255)
    lit = (filters.correlate(lit, _MEAN) / 9).round()
    water = levels * lit
    return water / water.amax((2, 3), keepdim=True).clamp(min=1)
