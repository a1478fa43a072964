"""The pre-activation ResNet-18 for images of CIFAR's size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from lit_robust.nn.classifier import ImageClassifier, scaled


class PreActBlock(nn.Module):
    """BN, ReLU, 3×3 convolution, twice, and a shortcut (He et al., 2016b).

    Where the shape changes, the shortcut is a 1×1 convolution of the activated input; elsewhere it is the raw input.

    Args:
        in_channels: Channels that come in.
        out_channels: Channels that go out.
        stride: Stride of the first convolution and of the shortcut.
        dropout: Probability that a unit is dropped before the second convolution, in training.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.dropout = nn.Dropout(dropout) if dropout else None
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        changes = stride != 1 or in_channels != out_channels
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, ⌈H / stride⌉, ⌈W / stride⌉)."""
        active = F.relu(self.bn1(x))
        out = F.relu(self.bn2(self.conv1(active)))
        if self.dropout is not None:
            out = self.dropout(out)
        return cast(Tensor, self.conv2(out) + (x if self.shortcut is None else self.shortcut(active)))


def stage(blocks: int, in_channels: int, out_channels: int, *, stride: int, dropout: float = 0.0) -> nn.Sequential:
    """Blocks one after the other, the first of which changes the channels and has the stride."""
    first = PreActBlock(in_channels, out_channels, stride, dropout)
    return nn.Sequential(first, *(PreActBlock(out_channels, out_channels, 1, dropout) for _ in range(blocks - 1)))


class PreActResNet18(ImageClassifier):
    """ResNet-18 of pre-activation blocks (He et al., 2016b), a usual baseline of adversarial training on CIFAR-10.

    Stages of 2, 2, 2, 2 blocks with 64 to 512 channels after a 3×3 stem of stride 1; a last BN and ReLU before the
    global average. Images are at least 8 pixels a side.

    Args:
        num_classes: Number of classes; None follows the data in a config, and is 10 outside one.
        in_channels: Channels of the images; None follows the data in a config, and is 3 outside one.
        width: Multiplier of all channels.
        mean: Mean of each channel, for a standardisation as the first layer, `standardize`; None for none.
        std: Standard deviation of each channel; given together with `mean`.

    Raises:
        UserError: If `width` is not above 0.
    """

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
        self.layer1 = stage(2, widths[0], widths[0], stride=1)
        self.layer2 = stage(2, widths[0], widths[1], stride=2)
        self.layer3 = stage(2, widths[1], widths[2], stride=2)
        self.layer4 = stage(2, widths[2], widths[3], stride=2)
        self.bn = nn.BatchNorm2d(widths[3])
        self.linear = nn.Linear(widths[3], self.num_classes)

    def logits(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of standardised images (N, in_channels, H, W)."""
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        return cast(Tensor, self.linear(F.relu(self.bn(x)).mean((2, 3))))
