"""Gaussian blur as a front end, the simplest that takes small perturbations away."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_robust.errors import UserError


class GaussianFilter(nn.Module):
    """Convolves every channel with a normalised Gaussian, the borders reflected (dissertation, appendix B).

    Args:
        size: Side of the kernel in pixels, odd.
        sigma: Standard deviation in pixels.

    Raises:
        UserError: If the side is not odd, or sigma not above 0.
    """

    kernel: Tensor

    def __init__(self, size: int = 5, sigma: float = 0.625) -> None:
        super().__init__()
        if size < 1 or size % 2 == 0:
            raise UserError(f"expected the size of GaussianFilter to be odd, such as 5, got {size}")
        if not sigma > 0:
            raise UserError(f"expected the sigma of GaussianFilter to be above 0 pixels, got {sigma}")
        self.sigma = sigma
        offset = torch.arange(size, dtype=torch.float32) - size // 2
        line = torch.exp(-0.5 * (offset / sigma) ** 2)
        self.register_buffer("kernel", torch.outer(line, line) / line.sum() ** 2)

    def forward(self, x: Tensor) -> Tensor:
        """Blurred images (N, C, H, W).

        Args:
            x: Images (N, C, H, W) in [0, 1], of sides above half of the kernel.
        """
        channels, side = x.shape[1], len(self.kernel)
        weight = self.kernel.expand(channels, 1, side, side).to(x)
        return F.conv2d(F.pad(x, (side // 2,) * 4, mode="reflect"), weight, groups=channels)

    def extra_repr(self) -> str:
        """The settings, for `print(model)`."""
        return f"size={len(self.kernel)}, sigma={self.sigma:g}"
