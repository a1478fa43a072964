"""The small convolutional network of the MNIST and Fashion-MNIST experiments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from lit_robust.errors import UserError
from lit_robust.nn.classifier import ImageClassifier, scaled


class SmallCNN(ImageClassifier):
    """Two unpadded 5×5 convolutions and a hidden layer of 100 units.

    After the network of Madry et al. (2018), which pads its convolutions and has 1024 hidden units. A ReLU comes after
    each max-pool.

    Args:
        num_classes: Number of classes; None follows the data in a config, and is 10 outside one.
        in_channels: Channels of the input; None follows the data in a config, and is 1 outside one. Behind a front end,
            the number of its output channels.
        size: Side of the images, in pixels.
        width: Multiplier of the 32 and 64 channels and of the 100 hidden units.
        mean: Mean of each channel, for a standardisation as the first layer, `standardize`; None for none.
        std: Standard deviation of each channel; given together with `mean`.

    Raises:
        UserError: If `size` is below 16, which leaves nothing after the second pool, or `width` is not above 0.
    """

    default_channels = 1
    remedy = "set data.size, or the network's size"

    def __init__(
        self,
        *,
        num_classes: int | None = None,
        in_channels: int | None = None,
        size: int = 28,
        width: float = 1.0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels, mean=mean, std=std)
        if size < 16:
            raise UserError(f"expected SmallCNN's size to be at least 16 pixels, got {size}; set data.size")
        self.smallest = self.largest = size
        first, second, hidden = (scaled(channels, width) for channels in (32, 64, 100))
        side = ((size - 4) // 2 - 4) // 2
        self.conv1 = nn.Conv2d(self.in_channels, first, 5)
        self.conv2 = nn.Conv2d(first, second, 5)
        self.hidden = nn.Linear(second * side * side, hidden)
        self.linear = nn.Linear(hidden, self.num_classes)

    def logits(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of standardised images (N, in_channels, size, size)."""
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.conv2(x), 2))
        return cast(Tensor, self.linear(F.relu(self.hidden(x.flatten(1)))))
