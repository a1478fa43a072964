"""The pre-activation ResNet-32 of the sparse-coding experiments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from lit_robust.errors import UserError
from lit_robust.nn.classifier import ImageClassifier

_SLOPE = 0.1
_UNITS = 5


class ResidualUnit(nn.Module):
    """BN, leaky ReLU, 3×3 convolution, twice, and a shortcut without parameters.

    The shortcut averages over the stride and pads channels with zeros, as many on either side.

    Args:
        in_channels: Channels that come in.
        out_channels: Channels that go out; more than come in by an even number.
        stride: Stride of the first convolution and of the shortcut.
        activate_first: Whether the shortcut takes the activated input rather than the raw one.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, activate_first: bool = False) -> None:
        super().__init__()
        self.activate_first = activate_first
        self.stride = stride
        self.padding = (out_channels - in_channels) // 2
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        for conv in (self.conv1, self.conv2):
            nn.init.xavier_normal_(conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, ⌈H / stride⌉, ⌈W / stride⌉)."""
        active = F.leaky_relu(self.bn1(x), _SLOPE)
        out = self.conv2(F.leaky_relu(self.bn2(self.conv1(active)), _SLOPE))
        return cast(Tensor, out + self._shortcut(active if self.activate_first else x))

    def _shortcut(self, x: Tensor) -> Tensor:
        if self.stride > 1:
            # With ceil_mode an odd side gives as many pixels as the padded convolution; even sides are unaffected.
            x = F.avg_pool2d(x, self.stride, ceil_mode=True)
        return F.pad(x, (0, 0, 0, 0, self.padding, self.padding)) if self.padding else x


class ResNet32(ImageClassifier):
    """ResNet-32 of pre-activation units (He et al., 2016b), after the CIFAR-10 network of Madry et al. (2018).

    A 3×3 stem of 16 channels and three groups of five units with 16, 32 and 64 channels; leaky ReLUs of slope 0.1.
    Images are at least 4 pixels a side; a global average ends the convolutions.

    Args:
        num_classes: Number of classes; None follows the data in a config, and is 10 outside one.
        in_channels: Channels of the images; None follows the data in a config, and is 3 outside one.
        widen: Multiplier of the channels of the three groups.
        stem: Channels of the stem. The filters of the dissertation's wide network that Fig. 4.10 shows are 160.
        final_norm: Whether a batch normalisation comes before the last activation; the dissertation's tenfold wide
            network has none.
        mean: Mean of each channel, for a standardisation as the first layer, `standardize`; None for none.
        std: Standard deviation of each channel; given together with `mean`.

    Raises:
        UserError: If `widen` or `stem` is below 1, or the first group has fewer channels than the stem or by an odd
            number more.
    """

    smallest = 4

    def __init__(
        self,
        *,
        num_classes: int | None = None,
        in_channels: int | None = None,
        widen: int = 1,
        stem: int = 16,
        final_norm: bool = True,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels, mean=mean, std=std)
        if widen < 1:
            raise UserError(f"expected widen to be at least 1, got {widen}")
        widths = [16 * widen, 32 * widen, 64 * widen]
        if stem < 1 or stem > widths[0] or (widths[0] - stem) % 2:
            raise UserError(f"expected stem of 1 to {widths[0]} channels, less by an even number, got {stem}")
        self.conv1 = nn.Conv2d(self.in_channels, stem, 3, padding=1, bias=False)
        self.layer1 = _group(stem, widths[0], stride=1, activate_first=True)
        self.layer2 = _group(widths[0], widths[1], stride=2)
        self.layer3 = _group(widths[1], widths[2], stride=2)
        self.bn = nn.BatchNorm2d(widths[2]) if final_norm else None
        self.linear = nn.Linear(widths[2], self.num_classes)

    def logits(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of standardised images (N, in_channels, H, W)."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        x = F.leaky_relu(x if self.bn is None else self.bn(x), _SLOPE)
        return cast(Tensor, self.linear(x.mean((2, 3))))


def _group(in_channels: int, out_channels: int, *, stride: int, activate_first: bool = False) -> nn.Sequential:
    first = ResidualUnit(in_channels, out_channels, stride, activate_first=activate_first)
    return nn.Sequential(first, *(ResidualUnit(out_channels, out_channels, 1) for _ in range(_UNITS - 1)))
