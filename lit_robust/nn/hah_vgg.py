"""VGG-16 whose first blocks are HaH blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from lit_robust.errors import UserError
from lit_robust.nn.classifier import ImageClassifier, scaled
from lit_robust.nn.divisive_norm import DivisiveNorm
from lit_robust.nn.hah_block import HaHBlock, NormCallable, ThresholdCallable
from lit_robust.nn.threshold import FractionThreshold
from lit_robust.nn.weight_norm_conv import WeightNormConv2d

_CHANNELS = (64, 64, 128, 128, *[256] * 3, *[512] * 6)
_POOLED = (2, 4, 7, 10, 13)  # blocks that a 2×2 max-pool follows


class StandardBlock(nn.Sequential):
    """Convolution, ReLU, batch normalisation, in the order of the published code.

    Args:
        conv: The convolution.
        momentum: Momentum of the running statistics.
    """

    def __init__(self, conv: nn.Conv2d, momentum: float) -> None:
        super().__init__()
        self.conv = conv
        self.relu = nn.ReLU()
        self.norm = nn.BatchNorm2d(conv.out_channels, momentum=momentum)


class HaHVGG16(ImageClassifier):
    """VGG-16 of chapter 5: `block1` to `block13`, of which the first are HaH blocks, and `classifier`.

    Convolutions are 3×3 without bias. With `hah_blocks=0` it is the chapter's baseline. Images are 32 to 63 pixels a
    side, where the last map is a single pixel.

    Args:
        hah_blocks: Number of HaH blocks, 0 to 13.
        num_classes: Number of classes; None follows the data in a config, and is 10 outside one.
        in_channels: Channels of the images; None follows the data in a config, and is 3 outside one.
        width: Multiplier of all channels.
        norm: Builds a HaH block's normalisation from its number of channels.
        threshold: Builds a HaH block's threshold, or None for none.
        weight_norm: Whether standard blocks have weight normalisation too (else plain convolutions).
        momentum: Momentum of batch normalisation in standard blocks. Two forward passes a batch, as in the published
            code, move the statistics as one with 0.19 does.
        mean: Mean of each channel, for a standardisation as the first layer, `standardize`; None for none.
        std: Standard deviation of each channel; given together with `mean`.

    Raises:
        UserError: If there are fewer blocks than `hah_blocks`, or `width` is not above 0.
    """

    smallest = 32
    largest = 63

    def __init__(
        self,
        *,
        hah_blocks: int = 6,
        num_classes: int | None = None,
        in_channels: int | None = None,
        width: float = 1.0,
        norm: NormCallable = DivisiveNorm,
        threshold: ThresholdCallable | None = FractionThreshold,
        weight_norm: bool = True,
        momentum: float = 0.1,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels, mean=mean, std=std)
        if not 0 <= hah_blocks <= len(_CHANNELS):
            raise UserError(f"VGG-16 has {len(_CHANNELS)} blocks; expected hah_blocks of 0 to that, got {hah_blocks}")
        self.hah_blocks = hah_blocks
        channels = self.in_channels
        for number, entry in enumerate(_CHANNELS, start=1):
            out = scaled(entry, width)
            block: nn.Module
            if number <= hah_blocks:
                conv = WeightNormConv2d(channels, out, 3, padding=1)
                block = HaHBlock(conv, norm=norm, threshold=threshold)
            elif weight_norm:
                block = StandardBlock(WeightNormConv2d(channels, out, 3, padding=1), momentum)
            else:
                block = StandardBlock(nn.Conv2d(channels, out, 3, padding=1, bias=False), momentum)
            self.add_module(f"block{number}", block)
            channels = out
        self.classifier = nn.Linear(channels, self.num_classes)

    def logits(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of standardised images (N, in_channels, H, W)."""
        for number in range(1, len(_CHANNELS) + 1):
            x = self.get_submodule(f"block{number}")(x)
            if number in _POOLED:
                x = F.max_pool2d(x, 2)
        return cast(Tensor, self.classifier(x.flatten(1)))
