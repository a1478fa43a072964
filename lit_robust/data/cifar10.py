"""CIFAR-10."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_robust.data.downloaded import DownloadedData


class CIFAR10(DownloadedData):
    """Photographs, 32 x 32 (Krizhevsky, 2009): 50,000 for training, 10,000 for testing."""

    classes = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    native_shape = (3, 32, 32)
    folder = "cifar-10-batches-py"

    def read(self, train: bool, download: bool) -> tuple[Tensor, Tensor]:
        """See `DownloadedData.read`."""
        from torchvision import datasets

        source = datasets.CIFAR10(self.root, train=train, download=download)
        return torch.from_numpy(source.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(source.targets)
