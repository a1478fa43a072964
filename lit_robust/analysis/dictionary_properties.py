"""How redundant a patch dictionary is."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

_QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)
_CONSTANT, _ZERO_MEAN = 0.9, 0.1  # cosine with a constant patch


def dictionary_properties(atoms: Tensor) -> dict[str, Any]:
    """Figures of a dictionary, as plain numbers.

    Args:
        atoms: Atoms (L, C, k, k); their scale does not matter.

    Returns:
        `atoms`, their number; `l1`, quantiles of ‖d‖₁ at norm 1 by name, of which √(C·k²), of a constant atom, is the
        largest possible; `mean_cos`, the mean |cosine| of two different atoms, and `nearest_cos`, the median |cosine|
        of an atom and its nearest neighbour (both 0 for a single atom); `near_constant` and `near_zero_mean`, the
        numbers of atoms whose |cosine| with a constant patch is above 0.9, or below 0.1.
    """
    rows = atoms.detach().double().flatten(1)
    rows = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
    levels = rows.abs().sum(1).quantile(rows.new_tensor(_QUANTILES)).tolist()
    cosine = (rows @ rows.T).abs().fill_diagonal_(0)
    count = len(rows)
    constant = rows.sum(1).abs() / math.sqrt(rows.shape[1])
    return {
        "atoms": count,
        "l1": dict(zip(("min", "5 %", "median", "95 %", "max"), levels, strict=True)),
        "mean_cos": float(cosine.sum() / max(1, count * (count - 1))),
        "nearest_cos": float(cosine.amax(1).median()),
        "near_constant": int(torch.count_nonzero(constant > _CONSTANT)),
        "near_zero_mean": int(torch.count_nonzero(constant < _ZERO_MEAN)),
    }
