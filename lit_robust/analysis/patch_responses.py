"""What the filters of a layer say about a patch: inner products with filters of norm 1, and their density."""

from __future__ import annotations

import torch
from torch import Tensor


def patch_responses(patches: Tensor, filters: Tensor) -> Tensor:
    """Inner products of patches with filters, or with the atoms of a dictionary, that are scaled to norm 1.

    Args:
        patches: Patches (N, C, k, k).
        filters: Filters (K, C, k, k); one of zeros responds with 0.

    Returns:
        (N, K).
    """
    flat = filters.flatten(1)
    unit = flat / torch.linalg.vector_norm(flat, dim=1, keepdim=True).clamp(min=1e-12)
    return torch.matmul(patches.flatten(1), unit.T)


def symmetric_density(values: Tensor, bins: int = 50) -> tuple[Tensor, Tensor]:
    """Histogram over [−m, m], with m the largest magnitude, as a density: heights times widths sum to 1.

    Args:
        values: Any shape, not empty.
        bins: Number of bins.

    Returns:
        Edges (bins + 1,) and heights (bins,), float64.
    """
    flat = values.detach().flatten().double().cpu()
    largest = max(float(flat.abs().max()), 1e-12)
    edges = torch.linspace(-largest, largest, bins + 1, dtype=torch.float64)
    place = ((flat + largest) / (2 * largest) * bins).long().clamp(0, bins - 1)
    counts = torch.bincount(place, minlength=bins).double()
    return edges, counts / counts.sum() * bins / (2 * largest)
