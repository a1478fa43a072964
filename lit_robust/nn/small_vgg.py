"""A VGG of five convolutions, for small images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from lit_robust.nn.classifier import ImageClassifier, scaled
from lit_robust.nn.vgg import POOL, vgg_layers

_LAYOUT = (32, POOL, 64, POOL, 128, 128, POOL, 256, POOL)


class SmallVGG(ImageClassifier):
    """The first five convolutions of VGG-11 (Simonyan and Zisserman, 2015) at half width, with batch normalisation.

    The layers are `features.0` to `features.18` and `classifier`: convolutions (3×3, with bias) at 0, 4, 8, 11 and 15,
    each followed by its batch normalisation and its ReLU; max-pools at 3, 7, 14 and 18. Images are 16 to 31 pixels a
    side, where the last map is a single pixel.

    Args:
        num_classes: Number of classes; None follows the data in a config, and is 10 outside one.
        in_channels: Channels of the images; None follows the data in a config, and is 1 outside one.
        width: Multiplier of all channels.
        mean: Mean of each channel, for a standardisation as the first layer, `standardize`; None for none.
        std: Standard deviation of each channel; given together with `mean`.

    Raises:
        UserError: If `width` is not above 0.
    """

    default_channels = 1
    smallest = 16
    largest = 31

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
        self.features = nn.Sequential(*vgg_layers(_LAYOUT, self.in_channels, width))
        self.classifier = nn.Linear(scaled(_LAYOUT[-2], width), self.num_classes)

    def logits(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of standardised images (N, in_channels, H, W)."""
        return cast(Tensor, self.classifier(self.features(x).flatten(1)))
