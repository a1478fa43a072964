"""VGG-16 with batch normalisation, for images of CIFAR's size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from lit_robust.nn.classifier import ImageClassifier, scaled

POOL = 0
_LAYOUT = (64, 64, POOL, 128, 128, POOL, *[256] * 3, POOL, *[512] * 3, POOL, *[512] * 3, POOL)


def vgg_layers(layout: Sequence[int], in_channels: int, width: float) -> list[nn.Module]:
    """The convolutional part of a VGG: 3×3 convolutions with batch normalisation and ReLU, and max-pools between.

    Args:
        layout: Channels of each convolution in turn; `POOL` for a max-pool of 2×2.
        in_channels: Channels of the images.
        width: Multiplier of all channels.
    """
    layers: list[nn.Module] = []
    channels = in_channels
    for entry in layout:
        if entry == POOL:
            layers.append(nn.MaxPool2d(2))
            continue
        out = scaled(entry, width)
        # The ReLU is not in place: what a tap keeps of the batch normalisation would be overwritten.
        layers += [nn.Conv2d(channels, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU()]
        channels = out
    return layers


class VGG16(ImageClassifier):
    """VGG-16 (Simonyan and Zisserman, 2015) with batch normalisation and a single linear layer.

    The layers are `features.0` to `features.44` and `classifier`: convolutions (3×3, with bias) at 0, 3, 7, 10, 14, 17,
    20, 24, 27, 30, 34, 37 and 40, each followed by its batch normalisation and its ReLU; max-pools at 6, 13, 23, 33 and
    43; an average pool of 1×1, which changes nothing, at 44. Images are 32 to 63 pixels a side, where the last map is
    a single pixel.

    Args:
        num_classes: Number of classes; None follows the data in a config, and is 10 outside one.
        in_channels: Channels of the images; None follows the data in a config, and is 3 outside one.
        width: Multiplier of all channels.
        mean: Mean of each channel, for a standardisation as the first layer, `standardize`; None for none.
        std: Standard deviation of each channel; given together with `mean`.

    Raises:
        UserError: If `width` is not above 0.
    """

    smallest = 32
    largest = 63

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
        self.features = nn.Sequential(*vgg_layers(_LAYOUT, self.in_channels, width), nn.AvgPool2d(1))
        self.classifier = nn.Linear(scaled(_LAYOUT[-2], width), self.num_classes)

    def logits(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of standardised images (N, in_channels, H, W)."""
        return cast(Tensor, self.classifier(self.features(x).flatten(1)))
