"""Data sets that torchvision downloads and reads."""

from __future__ import annotations

import socket
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from typing import ClassVar, Unpack

from torch import Tensor

from lit_robust.data.base import ImageData, Options, data_root
from lit_robust.data.images import Images
from lit_robust.errors import UserError

_TIMEOUT = 10.0  # seconds without an answer


class DownloadedData(ImageData):
    """A data set in files of its own, below a root folder, downloaded if they are not there."""

    folder: ClassVar[str]
    """Where the files are below the root."""

    def __init__(self, *, root: str | None = None, download: bool = True, **options: Unpack[Options]) -> None:
        """Checks the options; reads and downloads nothing.

        Args:
            root: Folder that holds the data set's own folder, as torchvision lays it out. None stands for the
                environment variable LIT_ROBUST_DATA and, where that is not set, for `data`.
            download: Whether to download what is missing.
            **options: See `ImageData`.
        """
        super().__init__(**options)
        self.root = data_root(root)
        self.download = download

    @abstractmethod
    def read(self, train: bool, download: bool) -> tuple[Tensor, Tensor]:
        """Reads the files below `root` with torchvision.

        Args:
            train: Whether to read the training set.
            download: Whether to download what is missing.

        Returns:
            Images (N, C, H, W) uint8 and labels (N,) int64.
        """

    def prepare_data(self) -> None:
        """Downloads what is missing, in one process.

        Raises:
            UserError: If there are no files and no network.
        """
        if self.download:
            self._read(train=True, download=True)

    def load(self, train: bool) -> Images:
        """See `ImageData.load`.

        Raises:
            UserError: If there are no files, or unreadable ones.
        """
        return Images(*self._read(train, download=False), self.classes)

    def _read(self, train: bool, download: bool) -> tuple[Tensor, Tensor]:
        try:
            with _impatient():
                return self.read(train, download)
        except (OSError, RuntimeError, ValueError, AssertionError, HTTPException) as error:
            cause = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"{self.name} could not be read from {(self.root / self.folder).absolute()}"
                f"{', nor downloaded' if download else ''} ({cause}). Ways out: set data.root or the environment "
                f"variable LIT_ROBUST_DATA to the folder that holds {self.folder}; or download it on a machine with a "
                "network, with data.download=true, and copy the folder; or take --data Digits, which needs no files"
            ) from error


@contextmanager
def _impatient() -> Iterator[None]:
    # torchvision passes no timeout of its own, and a firewall that drops packets would hold it for minutes.
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
