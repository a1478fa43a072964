"""The images and networks that the benchmarks measure with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_robust.attacks import Attack
from lit_robust.data import CIFAR10, FashionMNIST, ImageData, ImageFolder, Images
from lit_robust.nn import VGG16, SmallCNN

MODELS = Path(__file__).parent / "models"


def pixels(x: Tensor) -> Tensor:
    """Images in [0, 1] from bytes."""
    return x.float() / 255


def fashion(root: str, *, train: bool) -> Images:
    """Fashion-MNIST."""
    return FashionMNIST(root=root, download=False).images(train)


def cifar10_test(root: str, folder: str | None) -> Images:
    """The test images of CIFAR-10: below the data root as torchvision has them, or in a folder of image files."""
    if folder is not None:
        return ImageFolder(root=folder).images(train=False)
    return CIFAR10(root=root, download=False).images(train=False)


def cifar10_train(root: str, folder: str | None) -> Images:
    """The training images of CIFAR-10, as `cifar10_test`."""
    if folder is not None:
        return ImageFolder(root=folder).images(train=True)
    return CIFAR10(root=root, download=False).images(train=True)


def random_images(count: int) -> Images:
    """Images of CIFAR-10's shape with random bytes, for times that depend on the shape alone."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return Images(x, torch.randint(10, (count,), generator=generator), CIFAR10.classes)


class RandomData(ImageData):
    """A data module of random bytes in CIFAR-10's shape."""

    classes = CIFAR10.classes
    native_shape = CIFAR10.native_shape

    def __init__(self, count: int, batch_size: int) -> None:
        """Takes the number of images."""
        super().__init__(batch_size=batch_size, val_split=0)
        self.count = count

    def load(self, train: bool) -> Images:
        """See `ImageData.load`."""
        return random_images(self.count)


def trained_small_cnn(images: Images, *, steps: int, batch_size: int = 128) -> nn.Module:
    """The small CNN after natural training with Adam, in eval mode."""
    torch.manual_seed(0)
    return trained(SmallCNN(), images, steps=steps, batch_size=batch_size)


def trained(
    model: nn.Module, images: Images, *, steps: int, batch_size: int = 128, attack: Attack | None = None
) -> nn.Module:
    """A network after training with Adam, on what an attack makes of the images if there is one; in eval mode."""
    optimizer = torch.optim.Adam(model.parameters())
    order: list[Tensor] = []
    for _ in range(steps):
        order = order or list(torch.randperm(len(images)).split(batch_size))
        index = order.pop()
        x, y = pixels(images.x[index]), images.y[index]
        loss = F.cross_entropy(model(x if attack is None else attack(model, x, y)), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def stored_small_cnn(name: str) -> nn.Module:
    """A small CNN for Fashion-MNIST from `benchmarks/models`, in eval mode."""
    model = SmallCNN()
    model.load_state_dict(torch.load(MODELS / f"{name}.pt", weights_only=True))
    return model.eval()


def calibrated_vgg(images: Images, *, width: float, batches: int, batch_size: int = 64) -> nn.Module:
    """VGG-16 with random weights, whose batch normalisation has seen some images, in eval mode."""
    return calibrated(VGG16, images, width=width, batches=batches, batch_size=batch_size)


def calibrated(
    kind: Callable[..., nn.Module], images: Images, *, width: float, batches: int, batch_size: int = 64
) -> nn.Module:
    """A network with random weights, whose batch normalisation has seen some images, in eval mode."""
    torch.manual_seed(0)
    model = kind(width=width).train()
    with torch.no_grad():
        for index in torch.randperm(len(images)).split(batch_size)[:batches]:
            model(pixels(images.x[index]))
    return model.eval()
