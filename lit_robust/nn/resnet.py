"""ResNet-18 and ResNet-34 with the stem for images of CIFAR's size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from lit_robust.nn.classifier import ImageClassifier, scaled


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut, ReLU after the sum (He et al., 2016a).

    Args:
        in_channels: Channels that come in.
        out_channels: Channels that go out.
        stride: Stride of the first convolution and of the shortcut.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Sequential | None = None
        if stride != 1 or in_channels != out_channels:
            projection = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, ⌈H / stride⌉, ⌈W / stride⌉)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + (x if self.shortcut is None else self.shortcut(x)))


class CIFARResNet(ImageClassifier):
    """A residual network (He et al., 2016a) of four stages of basic blocks, with a 3×3 stem of stride 1.

    The registration order of the layers is the order in which partial training cuts the network: `conv1, bn1,
    layer1.0.conv1, …`, each block's main branch before its `shortcut.0, shortcut.1`, and `linear` at the end. Images
    are at least 8 pixels a side; a global average ends the convolutions.

    Args:
        num_classes: Number of classes; None follows the data in a config, and is 10 outside one.
        in_channels: Channels of the images; None follows the data in a config, and is 3 outside one.
        width: Multiplier of all channels.
        mean: Mean of each channel, for a standardisation as the first layer, `standardize`; None for none.
        std: Standard deviation of each channel; given together with `mean`.

    Raises:
        UserError: If `width` is not above 0.
    """

    blocks: tuple[int, int, int, int]
    smallest = 8

    def __init__(
        self,
        *,
        num_classes: int | None = None,
        in_channels: int | None = None,
        width: float = 1.0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels, mean=mean, std=std)
        widths = [scaled(channels, width) for channels in (64, 128, 256, 512)]
        self.conv1 = nn.Conv2d(self.in_channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = _stage(self.blocks[0], widths[0], widths[0], stride=1)
        self.layer2 = _stage(self.blocks[1], widths[0], widths[1], stride=2)
        self.layer3 = _stage(self.blocks[2], widths[1], widths[2], stride=2)
        self.layer4 = _stage(self.blocks[3], widths[2], widths[3], stride=2)
        self.linear = nn.Linear(widths[3], self.num_classes)

    def logits(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of standardised images (N, in_channels, H, W)."""
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return cast(Tensor, self.linear(x.mean((2, 3))))


class CIFARResNet18(CIFARResNet):
    """ResNet-18 for images of CIFAR's size: stages of 2, 2, 2, 2 blocks; see `CIFARResNet`."""

    blocks = (2, 2, 2, 2)


class CIFARResNet34(CIFARResNet):
    """ResNet-34 for images of CIFAR's size: stages of 3, 4, 6, 3 blocks; see `CIFARResNet`."""

    blocks = (3, 4, 6, 3)


def _stage(blocks: int, in_channels: int, out_channels: int, *, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, out_channels, stride)
    return nn.Sequential(first, *(BasicBlock(out_channels, out_channels, 1) for _ in range(blocks - 1)))
