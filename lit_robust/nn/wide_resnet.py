"""Wide residual networks for images of CIFAR's size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from lit_robust.errors import UserError
from lit_robust.nn.classifier import ImageClassifier
from lit_robust.nn.preact_resnet import stage


class WideResNet(ImageClassifier):
    """WRN-depth-k (Zagoruyko and Komodakis, 2016): three groups of pre-activation blocks, k times as wide.

    A 3×3 stem of 16 channels, groups of (depth − 4) / 6 blocks with 16k, 32k and 64k channels, a last BN and ReLU, and
    a global average. Images are at least 4 pixels a side.

    Args:
        num_classes: Number of classes; None follows the data in a config, and is 10 outside one.
        in_channels: Channels of the images; None follows the data in a config, and is 3 outside one.
        depth: Number of layers, 6n + 4.
        widen_factor: Multiplier k of the channels of the three groups; the stem keeps its 16.
        dropout: Probability that a unit is dropped between a block's convolutions, in training.
        mean: Mean of each channel, for a standardisation as the first layer, `standardize`; None for none.
        std: Standard deviation of each channel; given together with `mean`.

    Raises:
        UserError: If `depth` is not 6n + 4 with n of at least 1, `widen_factor` is below 1, or `dropout` is outside
            [0, 1).
    """

    smallest = 4

    def __init__(
        self,
        *,
        num_classes: int | None = None,
        in_channels: int | None = None,
        depth: int = 28,
        widen_factor: int = 10,
        dropout: float = 0.0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels, mean=mean, std=std)
        if depth < 10 or (depth - 4) % 6:
            raise UserError(f"expected depth to be 10, 16, 22, 28, ..., that is 6n + 4, got {depth}")
        if widen_factor < 1:
            raise UserError(f"expected widen_factor to be at least 1, got {widen_factor}")
        if not 0 <= dropout < 1:
            raise UserError(f"expected dropout to be at least 0 and below 1, got {dropout}")
        blocks = (depth - 4) // 6
        widths = [16 * widen_factor, 32 * widen_factor, 64 * widen_factor]
        self.conv1 = nn.Conv2d(self.in_channels, 16, 3, padding=1, bias=False)
        self.layer1 = stage(blocks, 16, widths[0], stride=1, dropout=dropout)
        self.layer2 = stage(blocks, widths[0], widths[1], stride=2, dropout=dropout)
        self.layer3 = stage(blocks, widths[1], widths[2], stride=2, dropout=dropout)
        self.bn = nn.BatchNorm2d(widths[2])
        self.linear = nn.Linear(widths[2], self.num_classes)

    def logits(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of standardised images (N, in_channels, H, W)."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return cast(Tensor, self.linear(F.relu(self.bn(x)).mean((2, 3))))
