"""The small models that attacks are checked on, and their images."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lit_robust.threat import LpNorm

SHAPE = (3, 8, 8)
CLASSES = 10
_LAG = 3.0  # of the logits of all classes but two


class TwoSided(nn.Module):
    """Logits whose margin is a linear function: f/2 and −f/2 with f = w·x + b, and the others below the second.

    An attack on class 0 or 1 has one best direction in any loss, so the optimum is known.

    Args:
        weight: w, (D,).
        bias: b.
        common: Slope of what all logits have in common, (D,), which changes no margin and no probability.
        shift: The same number added to all logits.
    """

    def __init__(self, weight: Tensor, bias: float = 0.0, common: Tensor | None = None, shift: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.register_buffer("common", torch.zeros_like(weight) if common is None else common)
        self.bias, self.shift = bias, shift

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 10) of images (N, 3, 8, 8)."""
        flat = x.flatten(1)
        half = (flat @ self.weight + self.bias)[:, None] / 2
        every = (flat @ self.get_buffer("common") + self.shift)[:, None]
        others = (-half - _LAG).expand(-1, CLASSES - 2)
        return torch.cat([half, -half, others], 1) + every


class OneByOne(nn.Module):
    """A network that takes one sample at a time, so that rounding cannot depend on the batch.

    Args:
        network: The network.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 10) of images (N, 3, 8, 8)."""
        return torch.cat([self.network(x[i : i + 1]) for i in range(len(x))])


class Lottery(nn.Module):
    """Two logits that depend on one pixel with many hills of different heights: where a search begins decides its end.

    Args:
        period: Width of a hill, in units of the [0, 1] pixel range.
    """

    def __init__(self, period: float) -> None:
        super().__init__()
        self.frequency = 2 * math.pi / period
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 10) of images (N, 3, 8, 8)."""
        angle = self.frequency * x[:, 0, 4, 4]
        hills = (torch.cos(angle) + torch.cos(0.618 * angle) + torch.cos(1.414 * angle + 1)) / 3
        half = self.weight * (0.6 - hills)[:, None]
        return torch.cat([half, -half, (-half - _LAG).expand(-1, CLASSES - 2)], 1)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weight(seed: int = 0, scale: float = 0.3, *, plateau: bool = False) -> Tensor:
    """A random slope, (D,), none of whose entries is close to 0, where a sign would be a matter of rounding.

    Args:
        seed: Seed.
        scale: Typical size of an entry.
        plateau: The steepest fifth of the entries is equally steep, so that an L1 step may be spread over them.
    """
    drawn = torch.randn(math.prod(SHAPE), generator=_generator(seed))
    size = drawn.abs() + 0.1
    if plateau:
        steep = size >= size.quantile(0.8)
        size = torch.where(steep, 2 * size.quantile(0.8), size)
    return scale * torch.copysign(size, drawn)


def images(n: int, *, cut: bool, seed: int = 1) -> Tensor:
    """Random images (n, 3, 8, 8): near the middle of the box, or with half of their pixels 0 or 1."""
    drawn = torch.rand(n, *SHAPE, generator=_generator(seed))
    return (2 * drawn - 0.5).clamp(0, 1) if cut else 0.4 + 0.2 * drawn


def curved(seed: int = 0) -> nn.Module:
    """A smooth random network of two layers in eval mode, in float64, one sample at a time."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(SHAPE), 16), nn.Tanh(), nn.Linear(16, CLASSES))
    return OneByOne(_filled(network, seed, scale=0.3)).double().eval()


def with_modes(seed: int = 0) -> nn.Module:
    """A network whose batch normalisation and dropout behave otherwise in train mode."""
    network = nn.Sequential(
        nn.Conv2d(SHAPE[0], 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, CLASSES)
    )
    return _filled(network, seed, scale=0.3).eval()


def _filled(network: nn.Module, seed: int, scale: float) -> nn.Module:
    generator = _generator(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return network


def period(eps: float, norm: LpNorm) -> float:
    """A width of hills such that random starts in a ball lie on different ones."""
    entries = math.prod(SHAPE)
    return eps * {"linf": 0.4, "l2": 1 / math.sqrt(entries), "l1": 1 / entries}.get(norm, 0.4)
