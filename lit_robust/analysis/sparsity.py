"""How many channels share the activation at a location."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lit_robust.errors import UserError


class Sparsity(NamedTuple):
    """Sparsity of each image, (N,) each.

    Attributes:
        value: Mean over the locations that have an activation; NaN where an image has none.
        silent: Share of the locations where all channels are 0.
    """

    value: Tensor
    silent: Tensor


def hoyer(activations: Tensor) -> Sparsity:
    """Squared Hoyer measure over the channels, ((‖a‖₁/‖a‖₂)² − 1) / (C − 1), averaged over locations.

    0 if one channel of a location is active, 1 if all are equal (dissertation, Fig. 5.4, after Hoyer, 2004). A location
    where all channels are 0 has no such ratio: it is left out of the mean, and the share of such locations is given.

    Args:
        activations: Output of a layer, (N, C, H, W) or (N, C).

    Raises:
        UserError: If there is a single channel, or the shape is another one.
    """
    if activations.ndim not in (2, 4):
        raise UserError(f"expected activations (N, C) or (N, C, H, W), got shape {tuple(activations.shape)}")
    channels = activations.shape[1]
    if channels < 2:
        raise UserError("a single channel has no sparsity; choose a layer of two channels or more")
    by_location = activations.flatten(2) if activations.ndim == 4 else activations[:, :, None]
    wide = by_location.to(torch.promote_types(by_location.dtype, torch.float32)).abs()
    # Divided by the largest first, or the squares of tiny activations would be 0.
    largest = wide.amax(1, keepdim=True)
    active = largest[:, 0] > 0
    scaled = wide / torch.where(largest > 0, largest, 1.0)
    ratio = scaled.sum(1).square() / torch.where(active, scaled.square().sum(1), 1.0)
    share = torch.where(active, (ratio - 1) / (channels - 1), 0.0)
    count = active.sum(1)
    return Sparsity(share.sum(1) / count, 1 - count / active.shape[1])
