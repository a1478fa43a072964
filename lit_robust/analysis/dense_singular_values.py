"""All singular values of a convolution as it is, from its matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_robust.analysis.conv_operator import ConvOperator
from lit_robust.errors import UserError

_CHUNK = 2**26  # bytes of the maps that are convolved at once
_COPIES = 2  # the matrix, and the copy that the decomposition works on


def dense_memory(operator: ConvOperator) -> float:
    """What `dense_singular_values` takes, in GiB: the matrix in float64 and a copy."""
    rows, columns = operator.shape
    return _COPIES * 8 * rows * columns / 2**30


def dense_singular_values(operator: ConvOperator, *, memory_gib: float = 1.0) -> Tensor:
    """All singular values of a convolution with zero padding, in descending order, right to about 1e-15 of the largest.

    Args:
        operator: The convolution.
        memory_gib: Largest memory that it may take, in GiB.

    Returns:
        Singular values, (min(C_out · H' · W', C_in · H · W),), in float64.

    Raises:
        UserError: If it would take more, before anything is allocated; or if the layer does not pad with zeros.
    """
    operator.check_zeros()
    need = dense_memory(operator)
    if need > memory_gib:
        rows, columns = operator.shape
        raise UserError(
            f"the matrix of a convolution of {operator.in_shape} to {operator.out_shape} is {rows:,} x {columns:,} "
            f"and takes {need:,.2f} GiB with its decomposition, and memory_gib is {memory_gib:g}; allow more, or take "
            "leading_singular_values, or those for circular padding"
        )
    values: Tensor = torch.linalg.svdvals(matrix(operator))
    return values


def matrix(operator: ConvOperator) -> Tensor:
    """The matrix of a convolution with zero padding in float64, (C_out · H' · W', C_in · H · W).

    Args:
        operator: The convolution, whose matrix fits in memory; it is applied to the basis of its smaller side.
    """
    rows, columns = operator.shape
    by_inputs = columns <= rows
    apply, shape = (operator, operator.in_shape) if by_inputs else (operator.adjoint, operator.out_shape)
    filled = torch.empty(min(rows, columns), max(rows, columns), dtype=torch.float64)
    chunk = max(1, _CHUNK // (8 * (rows + columns)))
    for start in range(0, len(filled), chunk):
        some = torch.arange(start, min(start + chunk, len(filled)))
        basis = torch.zeros(len(some), min(rows, columns), dtype=torch.float64)
        basis[torch.arange(len(some)), some] = 1
        filled[some] = apply(basis.view(-1, *shape)).flatten(1)
    return filled.T if by_inputs else filled
