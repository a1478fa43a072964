"""Data modules: images in memory, batches on the device."""

from lit_robust.data.augment import Augment
from lit_robust.data.base import ImageData, Options
from lit_robust.data.cifar10 import CIFAR10
from lit_robust.data.digits import Digits
from lit_robust.data.downloaded import DownloadedData
from lit_robust.data.image_folder import ImageFolder
from lit_robust.data.imagenette import Imagenette
from lit_robust.data.images import Images
from lit_robust.data.loader import Batch, BatchLoader, BlockLoader
from lit_robust.data.mnist import MNIST, FashionMNIST

__all__ = [
    "CIFAR10",
    "MNIST",
    "Augment",
    "Batch",
    "BatchLoader",
    "BlockLoader",
    "Digits",
    "DownloadedData",
    "FashionMNIST",
    "ImageData",
    "ImageFolder",
    "Imagenette",
    "Images",
    "Options",
]
