"""Imagenette, ten classes of ImageNet that are easily told apart."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

import torch
from torch import Tensor

from lit_robust.data.augment import Augment
from lit_robust.data.base import Options
from lit_robust.data.downloaded import DownloadedData
from lit_robust.data.shape import conform
from lit_robust.errors import UserError

_FOLDERS = (
    *("n01440764", "n02102040", "n02979186", "n03000684", "n03028079"),
    *("n03394916", "n03417042", "n03425413", "n03445777", "n03888257"),
)  # WordNet's names of the classes
_SIDE = 160


@dataclass(frozen=True)
class _Margins:
    """What an image has along an axis before and after its centre."""

    axis: int
    before: Tensor
    after: Tensor

    def around(self, centre: Tensor) -> Tensor:
        """The whole image, (C, H, W)."""
        return torch.cat([self.before, centre, self.after], dim=self.axis)


class Imagenette(DownloadedData):
    """Photographs whose shorter side is 160 pixels (Howard, 2019): 9,469 for training, 3,925 for testing.

    Tested on their centres, 160 x 160. With `augment`, training takes a crop of that size at a random place of the
    whole photograph, padded with zeros, and then the flip; without it, the centre too.

    In memory a training photograph is its centre and the two margins beside it, 1 GiB for all of them, since
    photographs of different sizes are no tensor and canvases of the longest would take 10 GiB. The crops of a batch are
    cut on the CPU, one by one, in a few milliseconds. Test images take 0.3 GiB.
    """

    classes = (
        "tench",
        "English springer",
        "cassette player",
        "chain saw",
        "church",
        "French horn",
        "garbage truck",
        "gas pump",
        "golf ball",
        "parachute",
    )
    folder = "imagenette2-160"

    def __init__(self, *, root: str | None = None, download: bool = True, **options: Unpack[Options]) -> None:
        """Checks the options; reads and downloads nothing.

        Args:
            root: See `DownloadedData`; it holds `imagenette2-160`, with `train/n01440764` and so on, and `val`.
            download: Whether to download what is missing, 95 MiB.
            **options: See `ImageData`. `size` is the shorter side that photographs are scaled to, and the crops'.

        Raises:
            UserError: If an option is outside its range, or images are to be padded to their size.
        """
        super().__init__(root=root, download=download, **options)
        if self.resize == "pad":
            raise UserError("Imagenette's images have different sizes, not to be padded to one; set data.resize=resize")
        self._margins: list[_Margins] = []  # of each training image

    @property
    def native_shape(self) -> tuple[int, int, int]:
        """(3, size, size), of what `load` returns."""
        return 3, self.size or _SIDE, self.size or _SIDE

    def prepare_data(self) -> None:
        """Downloads the files if their folder is not there, in one process.

        Raises:
            UserError: If there are no files and no network.
        """
        if not (self.root / self.folder).is_dir():
            super().prepare_data()

    def read(self, train: bool, download: bool) -> tuple[Tensor, Tensor]:
        """The centres of the images, the first of each class first, then the second of each; see `DownloadedData.read`.

        The margins of training images are kept beside them.
        """
        if download:
            from torchvision import datasets

            datasets.Imagenette(self.root, size="160px", download=True)
        files = _files(self.root / self.folder / ("train" if train else "val"))
        x = torch.empty(len(files), *self.image_shape, dtype=torch.uint8)
        margins = []
        with ThreadPoolExecutor() as pool:
            for i, image in enumerate(pool.map(self._decode, [path for path, _ in files])):
                x[i], its = _apart(image)
                margins.append(its)
        if train:
            self._margins = margins
        return x, torch.tensor([label for _, label in files])

    def augmented(self, augment: Augment, x: Tensor, index: Tensor, key: Tensor) -> Tensor:
        """Crops of the whole photographs; see `ImageData.augmented`."""
        centres = self.images(train=True).x
        whole = [self._margins[i].around(centres[i]) for i in index.tolist()]
        return augment.crops(whole, key.cpu(), self.image_shape[1:]).to(x.device)

    def _decode(self, path: Path) -> Tensor:
        """The image in a file, (C, H, W), its shorter side scaled to the size if it has another."""
        import numpy as np
        from PIL import Image

        side = self.native_shape[1]
        with Image.open(path) as file:
            image = file.convert("RGB")
        if min(image.size) != side:
            width, height = (max(side, round(each * side / min(image.size))) for each in image.size)
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        return conform(pixels[None], channels=self.channels)[0]


def _files(folder: Path) -> list[tuple[Path, int]]:
    """Images and labels of a split; the order deals the classes out, so that a part of a split holds all of them."""
    found = []
    for label, name in enumerate(_FOLDERS):
        paths = sorted(path for path in (folder / name).glob("*") if path.suffix.lower() == ".jpeg")
        if not paths:
            raise RuntimeError(f"no images in {folder / name}")
        found += [(number, label, path) for number, path in enumerate(paths)]
    return [(path, label) for _, label, path in sorted(found)]


def _apart(image: Tensor) -> tuple[Tensor, _Margins]:
    """An image (C, H, W) as its centre, (C, S, S) with S its shorter side, and the margins."""
    axis = 1 if image.shape[1] > image.shape[2] else 2
    side, length = min(image.shape[1:]), max(image.shape[1:])
    start = (length - side) // 2
    centre, end = image.narrow(axis, start, side), start + side
    before, after = image.narrow(axis, 0, start), image.narrow(axis, end, length - end)
    return centre, _Margins(axis, before.clone(), after.clone())  # views would keep the whole image
