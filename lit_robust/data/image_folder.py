"""Images in files, one folder a class."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, Unpack

import torch
from torch import Tensor

from lit_robust.data.base import ImageData, Options, data_root
from lit_robust.data.images import Images
from lit_robust.data.shape import conform
from lit_robust.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}

T = TypeVar("T")


class ImageFolder(ImageData):
    """Images in `root/train/CLASS` and `root/test/CLASS`, in any format that Pillow reads, decoded once into memory.

    The class folders below `train` are the classes, in alphabetical order; images may lie deeper. Every image is read
    as colour, so `image_shape` has three channels unless `channels` is 1. Their order is the first image of each class,
    then the second of each, so that a part of a set, as `trainer.limit_test_batches` takes it, holds all classes.
    """

    def __init__(self, *, root: str | None = None, max_memory_gib: float = 8.0, **options: Unpack[Options]) -> None:
        """Lists the files; decodes nothing.

        Args:
            root: Folder that holds `train` and `test`. None stands for the environment variable LIT_ROBUST_DATA and,
                where that is not set, for `data`.
            max_memory_gib: Limit of what the decoded images may take, in GiB.
            **options: See `ImageData`. `size` may be left out if all images have the same size.

        Raises:
            UserError: If a folder is missing or empty, there is only one class, or the images would not fit.
        """
        super().__init__(**options)
        self.root = data_root(root)
        self.max_memory_gib = max_memory_gib
        self.name = self.root.absolute().name or self.name
        self._classes = _class_folders(self.root / "train", least=2)
        self._files = {train: _list(self.root, train, self._classes) for train in (True, False)}
        self._native = (3, self.size, self.size) if self.size else (3, *_size(self._files[True].paths[0]))
        self._check_memory()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the class folders below `train`, in alphabetical order."""
        return self._classes

    @property
    def native_shape(self) -> tuple[int, int, int]:
        """(3, H, W): `size`, or what the first image has."""
        return self._native

    def prepare_data(self) -> None:
        """Reads the headers of all images, so that a bad test image is found before training and not after.

        Raises:
            UserError: If a file is no image, or the images have different sizes and `size` is not set.
        """
        for files in self._files.values():
            for path, found in zip(files.paths, _parallel(_size, files.paths), strict=True):
                self._check_size(path, found)

    def load(self, train: bool) -> Images:
        """See `ImageData.load`.

        Raises:
            UserError: If an image cannot be decoded, or the images have different sizes and `size` is not set.
        """
        files = self._files[train]
        x = torch.empty(len(files.paths), *self.image_shape, dtype=torch.uint8)
        for i, image in enumerate(_parallel(self._decode, files.paths)):
            x[i] = image
        return Images(x, torch.tensor(files.labels), self.classes)

    def _decode(self, path: Path) -> Tensor:
        import numpy as np

        with _opened(path) as image:
            pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
        self._check_size(path, pixels.shape[1:])
        try:
            return conform(pixels[None], size=self.size, channels=self.channels, resize=self.resize)[0]
        except UserError as error:
            raise UserError(f"{path}: {error}") from error

    def _check_size(self, path: Path, found: Sequence[int]) -> None:
        if self.size is None and tuple(found) != self._native[1:]:
            first = self._files[True].paths[0]
            raise UserError(
                f"images of different sizes: {first} has {self._native[1]} x {self._native[2]} pixels, "
                f"{path} has {found[0]} x {found[1]}; set data.size to bring them to one size"
            )

    def _check_memory(self) -> None:
        count = sum(len(files.paths) for files in self._files.values())
        channels, height, width = self.image_shape
        gib = count * channels * height * width / 2**30
        if gib > self.max_memory_gib:
            raise UserError(
                f"the {count} images in {self.root} would take {gib:.3g} GiB at {channels} x {height} x {width}, more "
                f"than data.max_memory_gib={self.max_memory_gib:g}; set a smaller data.size, or raise the limit"
            )


@dataclass(frozen=True)
class _Files:
    paths: list[Path]
    labels: list[int]


def _class_folders(folder: Path, least: int) -> tuple[str, ...]:
    if not folder.is_dir():
        raise UserError(
            f"{folder.absolute()} does not exist; data.root has to hold train/CLASS/*.png and test/CLASS/*.png"
        )
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(classes) < least:
        raise UserError(
            f"expected at least {least} folders in {folder}, one a class, got {', '.join(classes) or 'none'}; "
            f"images have to lie in {folder.name}/CLASS"
        )
    return tuple(classes)


def _list(root: Path, train: bool, classes: tuple[str, ...]) -> _Files:
    folder = root / ("train" if train else "test")
    if not train:
        unknown = sorted(set(_class_folders(folder, least=1)) - set(classes))
        if unknown:
            raise UserError(f"{folder} has classes that {root / 'train'} has not: {', '.join(unknown)}")
    found: list[tuple[int, int, Path]] = []
    for label, name in enumerate(classes):
        paths = _images_below(folder / name)
        if not paths and (train or (folder / name).is_dir()):
            raise UserError(f"no images in {folder / name}; expected files such as {name}/1.png, or no such folder")
        found += [(number, label, path) for number, path in enumerate(paths)]
    found.sort(key=lambda entry: entry[:2])
    return _Files([path for _, _, path in found], [label for _, label, _ in found])


def _images_below(folder: Path) -> list[Path]:
    return sorted(
        Path(parent, file)
        for parent, _, names in os.walk(folder, followlinks=True)
        for file in names
        if os.path.splitext(file)[1].lower() in _SUFFIXES and not file.startswith(".")
    )


def _parallel(function: Callable[[Path], T], paths: Sequence[Path]) -> Iterator[T]:
    with ThreadPoolExecutor() as pool:
        yield from pool.map(function, paths)


@contextmanager
def _opened(path: Path) -> Iterator[Image]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            yield image
    except Exception as error:  # Pillow's decoders raise nearly anything
        raise UserError(f"{path} cannot be read as an image ({error}); replace it or remove it") from error


def _size(path: Path) -> tuple[int, int]:
    with _opened(path) as image:
        return image.height, image.width
