"""How far normalised activations are polarized: where they lie, how many may change their level, what filters are."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_robust.errors import UserError

_EXACT = 2**23  # entries of which float32 still counts every one


def response_histogram(z: Tensor, bins: int = 100) -> Tensor:
    """Counts of activations in equal bins of [−1, 1] (dissertation, Fig. 4.4).

    Args:
        z: Normalised activations, of any shape; what rounding has put beyond ±1 counts as ±1.
        bins: Number of bins.

    Returns:
        (bins,), int64. The last bin includes 1.

    Raises:
        UserError: If `bins` is below 1.
    """
    if bins < 1:
        raise UserError(f"expected a histogram of at least 1 bin, got {bins}")
    parts = torch.split(z.detach().flatten().clamp(-1, 1), _EXACT)
    counts = [torch.histc(part, bins, -1, 1).round().to(torch.int64) for part in parts]
    return torch.stack(counts).sum(0)


def danger_shares(z: Tensor, thresholds: Tensor, eps: float) -> Tensor:
    """Share of each filter's activations that are nearer than eps to a threshold (dissertation, Fig. 4.2).

    Of these a perturbation of at most eps a pixel may change the level; the others are safe (Proposition 1).

    Args:
        z: Normalised activations, (N, K, H, W).
        thresholds: Thresholds of the quantiser, (L − 1,).
        eps: L∞ radius, in units of the pixel range.

    Returns:
        For each image, (N, K), float64.
    """
    near = torch.zeros_like(z, dtype=torch.bool)
    for threshold in thresholds:
        near |= (z - threshold).abs() < eps
    return near.flatten(2).double().mean(2)


def largest_taps(weight: Tensor) -> Tensor:
    """Share of each filter's L1 norm that its largest weight has: 1 for a filter that looks at one pixel.

    Args:
        weight: Filters, (K, C, k, k).

    Returns:
        (K,), NaN for a filter of zeros.
    """
    sizes = weight.detach().flatten(1).abs()
    return sizes.amax(1) / sizes.sum(1)
