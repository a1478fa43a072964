"""MNIST and Fashion-MNIST."""

from __future__ import annotations

from torch import Tensor

from lit_robust.data.downloaded import DownloadedData


class MNIST(DownloadedData):
    """Handwritten digits, 28 x 28 (LeCun, Cortes and Burges, 1998): 60,000 for training, 10,000 for testing."""

    classes = tuple("0123456789")
    native_shape = (1, 28, 28)
    folder = "MNIST/raw"

    def read(self, train: bool, download: bool) -> tuple[Tensor, Tensor]:
        """See `DownloadedData.read`."""
        from torchvision import datasets

        source = datasets.MNIST(self.root, train=train, download=download)
        return source.data[:, None], source.targets


class FashionMNIST(DownloadedData):
    """Pictures of clothing, 28 x 28 (Xiao, Rasul and Vollgraf, 2017): 60,000 for training, 10,000 for testing."""

    classes = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    native_shape = (1, 28, 28)
    folder = "FashionMNIST/raw"

    def read(self, train: bool, download: bool) -> tuple[Tensor, Tensor]:
        """See `DownloadedData.read`."""
        from torchvision import datasets

        source = datasets.FashionMNIST(self.root, train=train, download=download)
        return source.data[:, None], source.targets
