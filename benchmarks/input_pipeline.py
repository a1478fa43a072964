"""Random crops (4 pixels of padding) and flips of 50,000 images of 32×32, up to batches of 128 in [0, 1].

Ours slices batches out of memory and augments each as a whole. Theirs is the usual DataLoader over a Dataset of PIL
images with torchvision's transforms, without worker processes and with two that live on from epoch to epoch; the better
of them counts. The bytes are random, since only the shapes matter.
"""

from __future__ import annotations

from statistics import median

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.subjects import pixels, random_images
from benchmarks.timing import Comparison, alternate, options, report
from lit_robust import sampling
from lit_robust.data import Augment, BatchLoader, Images

BATCH = 128


class Photographs(Dataset[tuple[Tensor, int]]):
    """One image at a time, as torchvision's CIFAR-10 has it."""

    def __init__(self, images: Images) -> None:
        self.pixels = images.x.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = images.y.tolist()
        self.transform = transforms.Compose(
            [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


class OurEpochs:
    """The training batches that the data module makes, epoch after epoch."""

    def __init__(self, images: Images) -> None:
        self.augment = Augment(pad=4, flip=True)
        self.number = 0
        self.loader = BatchLoader(images, torch.arange(len(images)), BATCH, position=lambda: (self.number, 0))

    def run(self) -> None:
        """Goes through one epoch."""
        for x, _, index in self.loader:
            pixels(self.augment(x, sampling.keys(index, epoch=self.number)))
        self.number += 1


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    count, rounds = (512, 1) if given.smoke else (50_000, given.rounds)
    images = random_images(count)
    photographs = Photographs(images)
    loaders = {
        f"DataLoader, {workers} workers": DataLoader(
            photographs, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0
        )
        for workers in (0, 2)
    }

    def run(loader: DataLoader[tuple[Tensor, int]]) -> None:
        for _ in loader:
            pass

    contenders = {name: lambda loader=loader: run(loader) for name, loader in loaders.items()}
    seconds = alternate({"ours": OurEpochs(images).run, **contenders}, rounds=rounds)
    speed = {name: count / median(times) for name, times in seconds.items()}
    best = max(speed[name] for name in loaders)
    faster = Comparison(
        name="input_pipeline", ratio=speed["ours"] / best, target=5, ours=speed["ours"], theirs=best, unit="images/s"
    )
    figures = {"images": count, "batch": BATCH, "seconds": seconds, "images_per_second": speed}
    report(__spec__.name, [faster], figures, given, ["torchvision", "pillow"])


if __name__ == "__main__":
    main()
