"""What the networks share: the data they follow, standardisation inside the network, and a check of the images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from lit_robust.errors import UserError
from lit_robust.nn.standardize import Standardize


def scaled(channels: int, width: float) -> int:
    """`channels` times the width multiplier, rounded, and at least 1.

    Raises:
        UserError: If `width` is not above 0.
    """
    if not width > 0:
        raise UserError(f"expected width to be above 0, got {width}")
    return max(1, round(channels * width))


class ImageClassifier(nn.Module, ABC):
    """A network from images in [0, 1] to logits.

    Args:
        num_classes: Number of classes; None follows the data in a config, and is 10 outside one.
        in_channels: Channels of the images; None follows the data in a config, and is 3 (`SmallCNN`: 1) outside one.
        mean: Mean of each channel, for a standardisation as the network's first layer, `standardize`; None for none.
        std: Standard deviation of each channel; given together with `mean`.

    Raises:
        UserError: If `mean` and `std` are not given together, or not for every channel, or a number is below 1.
    """

    default_channels: int = 3
    smallest: int = 1  # sides of the images that fit, in pixels
    largest: int | None = None
    remedy: str = "set data.size"

    def __init__(
        self,
        *,
        num_classes: int | None = None,
        in_channels: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = 10 if num_classes is None else num_classes
        self.in_channels = self.default_channels if in_channels is None else in_channels
        if self.num_classes < 1 or self.in_channels < 1:
            raise UserError(
                f"expected num_classes and in_channels of at least 1, got {self.num_classes} and {self.in_channels}"
            )
        if (mean is None) != (std is None):
            raise UserError(f"expected mean and std together, got mean={mean} and std={std}")
        if mean is not None and len(mean) != self.in_channels:
            raise UserError(f"expected one mean for each of {self.in_channels} channels, got {len(mean)}")
        # None rather than nn.Identity, so that without statistics the network's layers are exactly the published ones.
        self.standardize = None if mean is None or std is None else Standardize(mean, std)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images.

        Args:
            x: Images (N, in_channels, H, W) in [0, 1].

        Raises:
            UserError: If the images have other channels than `in_channels`, or a size that does not fit the network.
        """
        self._check(x)
        return self.logits(x if self.standardize is None else self.standardize(x))

    @abstractmethod
    def logits(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of standardised images (N, in_channels, H, W)."""

    def _check(self, x: Tensor) -> None:
        name = type(self).__name__
        if x.ndim != 4:
            raise UserError(f"{name} expected images (N, {self.in_channels}, H, W), got shape {tuple(x.shape)}")
        channels, height, width = x.shape[1:]
        if channels != self.in_channels:
            raise UserError(
                f"{name} expected {self.in_channels} channels, got {channels}; set in_channels or data.channels"
            )
        largest = max(height, width) if self.largest is None else self.largest
        if not (self.smallest <= height <= largest and self.smallest <= width <= largest):
            raise UserError(
                f"{name} takes images of {self._sizes()} pixels a side, got {height}x{width}; {self.remedy}"
            )

    def _sizes(self) -> str:
        if self.largest is None:
            return f"at least {self.smallest}"
        return f"{self.smallest}" if self.smallest == self.largest else f"{self.smallest} to {self.largest}"
