"""Gaussian noise on the input, in training and in evaluation alike."""

from __future__ import annotations

from fractions import Fraction

from torch import Tensor, nn

from lit_robust import radius, sampling
from lit_robust.errors import UserError


class AdditiveNoise(nn.Module):
    """x + sigma · N(0, 1), drawn anew at every forward, in evaluation mode too.

    Inside `sampling.keyed` the noise belongs to the samples; outside it comes from torch's generator.

    Args:
        sigma: Standard deviation, in units of the [0, 1] pixel range; a number, or text such as `8/255`.
        clamp: Whether the noisy images are cut to [0, 1].

    Raises:
        UserError: If `sigma` is not a number, or below 0.
    """

    def __init__(self, sigma: Fraction | float | str, *, clamp: bool = False) -> None:
        super().__init__()
        self.sigma = float(radius.parse(sigma, name="sigma"))
        if self.sigma < 0:
            raise UserError(f"expected sigma to be 0 or more, got {sigma}")
        self.clamp = clamp

    def forward(self, x: Tensor) -> Tensor:
        """Noisy images (N, C, H, W).

        Args:
            x: Images (N, C, H, W) in [0, 1].
        """
        noisy = x + self.sigma * sampling.layer_normal(x)
        return noisy.clamp(0.0, 1.0) if self.clamp else noisy

    def extra_repr(self) -> str:
        """The settings, for `print(model)`."""
        return f"sigma={self.sigma:g}, clamp={self.clamp}"
