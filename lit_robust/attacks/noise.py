"""Noise as an attack that does not look at the model; it is reported as noise, never as an adversary."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from fractions import Fraction

from torch import Tensor, nn

from lit_robust import radius
from lit_robust.attacks.base import Attack
from lit_robust.errors import UserError
from lit_robust.sampling import Noise
from lit_robust.threat import ThreatModel


@dataclass(frozen=True, kw_only=True)
class _AdditiveNoise(Attack):
    """Adds noise and clamps to the box."""

    @property
    def adversarial(self) -> bool:
        """No: it does not look at the model."""
        return False

    @property
    def threat_model(self) -> ThreatModel:
        """The pixel box."""
        return ThreatModel.box()

    @abstractmethod
    def _perturbation(self, x: Tensor, noise: Noise) -> Tensor: ...

    def passes(self, classes: int) -> tuple[int, int] | None:
        """The most forward and backward passes that a sample takes."""
        return 0, 0

    def search(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """One noisy version of each image."""
        del model, y  # noise looks at neither
        return (x + self._perturbation(x, noise)).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class GaussianNoise(_AdditiveNoise):
    """Gaussian noise, clamped to [0, 1].

    Args:
        sigma: Standard deviation in units of the [0, 1] pixel range.

    Raises:
        UserError: If `sigma` is negative.
    """

    sigma: Fraction | float | str

    def __post_init__(self) -> None:
        _not_negative(self.sigma, "sigma")

    def __str__(self) -> str:
        return f"Gaussian noise, sigma {radius.show(radius.parse(self.sigma))}"

    def _perturbation(self, x: Tensor, noise: Noise) -> Tensor:
        return float(radius.parse(self.sigma)) * noise.normal("gaussian", x.shape[1:], dtype=x.dtype)


@dataclass(frozen=True, kw_only=True)
class UniformNoise(_AdditiveNoise):
    """Uniform noise in [−amplitude, amplitude] for each entry, clamped to [0, 1].

    Args:
        amplitude: In units of the [0, 1] pixel range.

    Raises:
        UserError: If `amplitude` is negative.
    """

    amplitude: Fraction | float | str

    def __post_init__(self) -> None:
        _not_negative(self.amplitude, "amplitude")

    def __str__(self) -> str:
        return f"uniform noise, amplitude {radius.show(radius.parse(self.amplitude))}"

    def _perturbation(self, x: Tensor, noise: Noise) -> Tensor:
        return float(radius.parse(self.amplitude)) * (2 * noise.uniform("uniform", x.shape[1:], dtype=x.dtype) - 1)


def _not_negative(value: Fraction | float | str, name: str) -> None:
    if radius.parse(value, name=name) < 0:
        raise UserError(f"expected {name} to be 0 or more, got {value}")
