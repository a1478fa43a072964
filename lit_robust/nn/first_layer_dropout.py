"""A random first layer without a dictionary: what dropout alone does against an attack."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from lit_robust.errors import UserError
from lit_robust.nn.code_dropout import CodeDropout


class FirstLayerDropout(nn.Module):
    """A convolution of the image whose outputs are dropped in evaluation too, for the ablation of section 4.2.

    The filters train with the classifier behind them. Dropout is that of the sparse code: survivors are not scaled.

    Args:
        filters: Filters, the channels that the classifier behind it takes.
        p: Probability that an output becomes 0, in [0, 1).
        in_channels: Channels of the images; None follows the data in a config, and is 3 outside one.

    Raises:
        UserError: If there is no filter or no channel, or `p` is out of range.
    """

    def __init__(self, filters: int = 50, p: float = 0.95, in_channels: int | None = None) -> None:
        super().__init__()
        channels = 3 if in_channels is None else in_channels
        if filters < 1 or channels < 1:
            raise UserError(f"expected filters and in_channels of at least 1, got {filters} and {channels}")
        self.conv = nn.Conv2d(channels, filters, 3, padding=1, bias=False)
        self.dropout = CodeDropout(p)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) to outputs (N, filters, H, W), most of them 0."""
        return cast(Tensor, self.dropout(self.conv(x)))
