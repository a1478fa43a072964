"""EfficientNet-B0, the classifier of the Imagenette experiments."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

from torch import Tensor, nn

from lit_robust import sampling
from lit_robust.errors import UserError
from lit_robust.nn.classifier import ImageClassifier

_STAGES = (  # expansion, kernel, stride, channels in, channels out, blocks (Tan and Le, 2019, Table 1)
    (1, 3, 1, 32, 16, 1),
    (6, 3, 2, 16, 24, 2),
    (6, 5, 2, 24, 40, 2),
    (6, 3, 2, 40, 80, 3),
    (6, 5, 1, 80, 112, 3),
    (6, 5, 2, 112, 192, 4),
    (6, 3, 1, 192, 320, 1),
)


class EfficientNetB0(ImageClassifier):
    """EfficientNet-B0 (Tan and Le, 2019) as torchvision builds it, with the dissertation's settings.

    These are batch normalisation with eps 1e-3 and momentum 0.01, torch's default initialisation, dropout and
    stochastic depth. Convolutions are padded alike on both sides, where TensorFlow's SAME padding, which the
    dissertation's network imitates, puts the odd pixel of a strided one below and to the right. Dropout and stochastic
    depth draw the noise of their samples. Nothing is computed in place.

    Args:
        num_classes: Number of classes; None follows the data in a config, and is 10 outside one.
        in_channels: Channels of the images; None follows the data in a config, and is 3 outside one.
        dropout: Probability that a feature is dropped before the linear layer.
        stochastic_depth: Probability that a residual block is left out, growing linearly from 0 at the first towards
            this at the last of the 16 blocks.
        width: Multiplier of all channels; torchvision rounds to multiples of 8.
        mean: Mean of each channel, for a standardisation as the first layer, `standardize`; None for none.
        std: Standard deviation of each channel; given together with `mean`.

    Raises:
        UserError: If a probability is outside [0, 1), or `width` is not above 0.
    """

    def __init__(
        self,
        *,
        num_classes: int | None = None,
        in_channels: int | None = None,
        dropout: float = 0.2,
        stochastic_depth: float = 0.2,
        width: float = 1.0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        from torchvision.models.efficientnet import EfficientNet, MBConvConfig

        super().__init__(num_classes=num_classes, in_channels=in_channels, mean=mean, std=std)
        for name, value in (("dropout", dropout), ("stochastic_depth", stochastic_depth)):
            if not 0 <= value < 1:
                raise UserError(f"expected {name} to be at least 0 and below 1, got {value}")
        if not width > 0:
            raise UserError(f"expected width to be above 0, got {width}")
        network = EfficientNet(
            [MBConvConfig(*stage, width_mult=width) for stage in _STAGES],
            dropout=dropout,
            stochastic_depth_prob=stochastic_depth,
            num_classes=self.num_classes,
            norm_layer=partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01),
        )
        if self.in_channels != 3:  # torchvision's stem takes colour alone
            stem: Any = network.features[0]
            stem[0] = nn.Conv2d(self.in_channels, stem[0].out_channels, 3, stride=2, padding=1, bias=False)
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.reset_parameters()
            elif isinstance(module, nn.SiLU):
                module.inplace = False
            elif hasattr(module, "stochastic_depth"):
                module.stochastic_depth = _Drop(module.stochastic_depth.p)
        self.features = network.features
        self.dropout = _Drop(dropout)
        self.linear = cast(nn.Linear, network.classifier[1])

    def logits(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of standardised images (N, in_channels, H, W)."""
        return cast(Tensor, self.linear(self.dropout(self.features(x).mean((2, 3)))))


class _Drop(nn.Module):
    """In training, zeroes single features (N, F), or whole samples of (N, C, H, W), and scales what stays.

    It gives a tensor of its own, since torchvision's blocks add their shortcut to it in place.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x.clone()
        drawn = x if x.ndim == 2 else x[:, :1, :1, :1]
        return x * (sampling.layer_uniform(drawn) >= self.p) / (1.0 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p:g}"
