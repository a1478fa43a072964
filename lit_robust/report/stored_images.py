"""Some images of `adversarials.npz`, read without the others, which may be more than memory holds."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lit_robust.evaluation.adversarials import IMAGES

Array = np.ndarray[Any, np.dtype[Any]]
_AT_ONCE = 1 << 20  # bytes


def columns(path: Path) -> dict[str, Array]:
    """All that the file holds beside the images, a row an adversarial.

    Args:
        path: `adversarials.npz`.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not what an evaluation writes.
    """
    try:
        with np.load(path) as content:
            return {name: content[name] for name in content.files if name not in IMAGES}
    except zipfile.BadZipFile as error:
        raise ValueError(str(error)) from error


def images(path: Path, name: str, rows: Sequence[int]) -> Array:
    """Images of some rows, (rows, C, H, W) in [0, 1].

    Args:
        path: `adversarials.npz`.
        name: `x` or `x_adv`.
        rows: The rows, in any order.
    """
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
        np.lib.format.read_magic(file)
        shape, _, kind = np.lib.format.read_array_header_1_0(file)
        size = int(np.prod(shape[1:])) * kind.itemsize
        found: dict[int, Array] = {}
        at = 0
        for row in sorted(set(rows)):
            _skip(file, (row - at) * size)
            found[row] = np.frombuffer(file.read(size), kind).reshape(shape[1:])
            at = row + 1
    return np.stack([found[row] for row in rows])


def _skip(file: Any, count: int) -> None:  # noqa: ANN401 - a member of an archive
    while count > 0:
        count -= len(file.read(min(count, _AT_ONCE)))
