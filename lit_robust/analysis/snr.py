"""How much of a layer's signal survives noise on the image."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_EPS = 1e-9  # added to the norm of the difference, as in the published code


def snr(clean: Tensor, noisy: Tensor) -> Tensor:
    """Signal-to-noise ratio of each image, (‖f(x)‖₂ / (‖f(x + w) − f(x)‖₂ + 1e-9))² (dissertation, Eq. 5.6, inside).

    Where the noise changes nothing the ratio is finite and huge; where the signal is zero, so is the ratio.

    Args:
        clean: What a layer sees of the clean images, (N, ...).
        noisy: What it sees of the noisy ones, (N, ...).

    Returns:
        Ratios of powers, (N,), at least float32.

    Raises:
        ValueError: If the shapes differ.
    """
    if clean.shape != noisy.shape:
        raise ValueError(f"expected two tensors of one shape, got {tuple(clean.shape)} and {tuple(noisy.shape)}")
    wide = torch.promote_types(clean.dtype, torch.float32)  # 1e-9 is 0 in 16 bits
    signal = torch.linalg.vector_norm(clean.to(wide).flatten(1), dim=1)
    change = torch.linalg.vector_norm((noisy.to(wide) - clean.to(wide)).flatten(1), dim=1)
    ratio: Tensor = signal / (change + _EPS)
    return ratio.square()


def decibel(ratios: Tensor) -> float:
    """10·log₁₀ of the mean of power ratios, in dB (dissertation, Eq. 5.6): first the average, then the logarithm.

    Args:
        ratios: Ratio of each image, (N,).

    Returns:
        −inf if all ratios are zero.
    """
    mean = float(ratios.cpu().double().mean())
    return 10.0 * math.log10(mean) if mean > 0 else -math.inf
