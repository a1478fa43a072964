"""Arrays as bytes, for a column of per-sample results that only a few rows fill."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from torch import Tensor

Floats = np.ndarray[Any, np.dtype[np.float64]]


def packed(values: Tensor) -> bytes:
    """A tensor of any shape as bytes, in float32; a row without one holds `b""`, and the column keeps its type."""
    buffer = io.BytesIO()
    np.save(buffer, values.detach().cpu().float().numpy())
    return buffer.getvalue()


def unpacked(content: bytes) -> Floats:
    """The array that `packed` stored."""
    array: Floats = np.load(io.BytesIO(content)).astype(np.float64)
    return array


def rounded(values: Floats, digits: int = 3) -> list[Any]:
    """An array as nested lists for JSON, each number with so many significant digits."""
    if values.ndim > 1:
        return [rounded(part, digits) for part in values]
    return [float(f"{value:.{digits}g}") for value in values.tolist()]
