"""The published files of CIFAR-10-C."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lit_robust.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_IMAGES = 10_000
_SEVERITIES = 5
_SIDE = 32


class CIFAR10C:
    """CIFAR-10's test set under common corruptions (Hendrycks and Dietterich, 2019), read from its files as needed.

    `<corruption>.npy` holds (50000, 32, 32, 3) uint8, the test set in its order once for each severity; `labels.npy`
    holds the (50000,) labels.

    Args:
        folder: Folder of the files.
        corruptions: Names of the corruptions whose files are needed.

    Raises:
        UserError: If a file is missing, cannot be read, or has another shape or type.
    """

    def __init__(self, folder: str | Path, corruptions: Iterable[str]) -> None:
        self.folder = Path(folder).expanduser()
        rows = _IMAGES * _SEVERITIES
        self._files = {name: self._open(name, (rows, _SIDE, _SIDE, 3)) for name in corruptions}
        self._labels = self._open("labels", (rows,))

    def check_labels(self, y: Tensor) -> None:
        """Refuses a test set that is not CIFAR-10's in its original order.

        Args:
            y: Labels of the test set, (10000,).

        Raises:
            UserError: If there are other labels, or in another order.
        """
        labels = torch.tensor(self._labels.astype("int64")).view(_SEVERITIES, _IMAGES)
        if len(y) != _IMAGES:
            raise UserError(f"CIFAR-10-C needs CIFAR-10's test set of {_IMAGES:,} images, and this one has {len(y):,}")
        differing = int((labels != y.cpu()).sum(1).amax())
        if differing:
            raise UserError(
                f"{self.folder / 'labels.npy'} differs from the labels of the test set in {differing:,} of {_IMAGES:,} "
                "images; CIFAR-10-C needs CIFAR-10's test set in its original order"
            )

    def images(self, corruption: str, severity: int, index: Tensor) -> Tensor:
        """Corrupted images.

        Args:
            corruption: One of the names that were asked for.
            severity: 1 to 5.
            index: Positions in the test set, (N,).

        Returns:
            (N, 3, 32, 32) uint8.
        """
        rows = (severity - 1) * _IMAGES + index.cpu().numpy()
        return torch.from_numpy(self._files[corruption][rows]).permute(0, 3, 1, 2)

    def _open(self, name: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        import numpy as np

        path = self.folder / f"{name}.npy"
        wanted = f"expected {path} to hold {shape} of uint8"
        if not path.is_file():
            raise UserError(f"{wanted}, and there is no such file; CIFAR-10-C is at https://zenodo.org/records/2535967")
        try:
            array: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UserError(f"{wanted}, and it cannot be read ({error})") from error
        if array.shape != shape or array.dtype != np.uint8:
            raise UserError(f"{wanted}, and it holds {array.shape} of {array.dtype}")
        return array
