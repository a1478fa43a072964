"""The largest singular values of a convolution that is too large for its matrix."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lit_robust import sampling
from lit_robust.analysis.conv_operator import ConvOperator
from lit_robust.errors import UserError

_TOLERANCE = 1e-9  # of a squared value, relative


def leading_singular_values(operator: ConvOperator, k: int, *, seed: int = 0) -> Tensor:
    """The k largest singular values of a convolution with zero padding, in descending order, right to about 1e-8.

    By implicitly restarted Lanczos steps on the operator itself and its transpose (ARPACK; Lehoucq, Sorensen and Yang,
    1998): no matrix is formed, and memory is that of some 2 k maps.

    Args:
        operator: The convolution.
        k: How many.
        seed: Seed of the map that it starts with.

    Returns:
        Singular values, (k,), in float64.

    Raises:
        UserError: If k is not between 1 and one less than all there are, or the layer does not pad with zeros.
    """
    from scipy.sparse.linalg import LinearOperator, svds

    operator.check_zeros()
    rows, columns = operator.shape
    if not 1 <= k < min(rows, columns):
        raise UserError(
            f"expected k from 1 to {min(rows, columns) - 1}, one less than there are singular values, got {k}; "
            "dense_singular_values gives all"
        )
    linear = LinearOperator(
        (rows, columns),
        matvec=lambda x: operator(_maps(x, operator.in_shape)).flatten().numpy(),
        rmatvec=lambda y: operator.adjoint(_maps(y, operator.out_shape)).flatten().numpy(),
        dtype="float64",
    )
    noise = sampling.Noise(sampling.keys(torch.zeros(1, dtype=torch.int64), seed=seed))
    start = noise.normal("lanczos", (min(rows, columns),), dtype=torch.float64)[0].numpy()
    values = svds(linear, k, tol=_TOLERANCE, v0=start, return_singular_vectors=False)
    return torch.from_numpy(values.copy()).sort(descending=True).values


def _maps(vector: Any, shape: tuple[int, int, int]) -> Tensor:  # noqa: ANN401 - a NumPy array
    return torch.from_numpy(vector.astype("float64")).view(1, *shape)
