"""The cosine basis of patches, a dictionary that nothing is learned for."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def dct_atoms(channels: int, side: int) -> Tensor:
    """The discrete cosine basis of patches (type II), an orthonormal dictionary of one atom a pixel and channel.

    Each atom lies in one channel. Atoms go by channel, then by vertical and by horizontal frequency.

    Args:
        channels: Channels of the patches, C.
        side: Side of the patches in pixels, k.

    Returns:
        Atoms (C·k², C, k, k) of norm 1.
    """
    frequency, pixel = torch.arange(side).double()[:, None], torch.arange(side).double()
    waves = torch.cos(math.pi / side * (pixel + 0.5) * frequency) * math.sqrt(2 / side)
    waves[0] /= math.sqrt(2)
    planes = torch.einsum("ui,vj->uvij", waves, waves).reshape(-1, side, side)
    atoms = torch.einsum("cd,pij->cpdij", torch.eye(channels, dtype=torch.float64), planes)
    return atoms.reshape(-1, channels, side, side).float()
