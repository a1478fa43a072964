"""How many of a filter's weights carry it."""

from __future__ import annotations

from torch import Tensor

from lit_robust.analysis.sparsity import hoyer
from lit_robust.errors import UserError


def filter_sparsity(weight: Tensor) -> Tensor:
    """((‖w‖₁/‖w‖₂)² − 1) / (d − 1) of each filter: 0 if one weight is not zero, 1 if all have one magnitude.

    The h-ratio of the dissertation's Fig. 3.18 and 3.19, after Hoyer (2004); Gaussian weights have about 2/π. Scaling a
    filter does not change it.

    Args:
        weight: Filters, (C_out, C_in, k, k) or (C_out, d); d = C_in · k · k weights each.

    Returns:
        One number a filter, (C_out,), in float64; NaN for a filter whose weights are all 0, which has no such ratio.

    Raises:
        UserError: If a filter has a single weight.
    """
    filters = weight.detach().double().flatten(1)
    if filters.shape[1] < 2:
        raise UserError(f"a filter of one weight has no sparsity; got filters {tuple(weight.shape)}")
    return hoyer(filters).value
