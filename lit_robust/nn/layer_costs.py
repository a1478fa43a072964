"""Costs on layers, which any regime can add to its own loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from lit_robust.errors import UserError
from lit_robust.nn.hah_block import HebbianLearner, hah_blocks
from lit_robust.nn.hebbian_cost import Hebbian

Terms = dict[str, Tensor]
ALPHAS = (4.5e-3, 2.5e-3, 1.3e-3, 1e-3, 8e-4, 5e-4, 5e-4)  # dissertation, section 5.3; the seventh is our choice


class LayerCost(ABC):
    """A cost on layers of a network."""

    @abstractmethod
    def check(self, network: nn.Module) -> None:
        """Refuses a network that it cannot be computed for.

        Raises:
            UserError: Saying what does not fit.
        """

    @abstractmethod
    def collecting(self, network: nn.Module) -> AbstractContextManager[Callable[[], Terms]]:
        """A context for the forward passes of a training step; what it gives returns the terms of the loss by name."""


@dataclass(frozen=True, kw_only=True)
class HebbianCost(LayerCost):
    """Hebbian/anti-Hebbian learning in every HaH block (dissertation, section 5.2.2).

    It sees the first forward pass of the step that trains: of clean images in natural training and TRADES, of attacked
    ones in adversarial training.

    Args:
        alphas: Weight α of each block's cost, in the order of execution; what is more than there are blocks is unused.
        lam: λ, the weight of the channels that are not among the strongest. The text has 0.1, but the published code
            passes it under a name that is ignored, so that 1 most likely made the published numbers.
        fraction: K is this fraction of a block's channels, rounded up.
        propagate: Let the cost's gradient through to the layers before, where it makes them "cheat" (Fig. 5.3).

    Raises:
        UserError: If a number is outside its range.
    """

    alphas: Sequence[float] = ALPHAS
    lam: float = 1.0
    fraction: float = 0.1
    propagate: bool = False

    def __post_init__(self) -> None:
        for alpha in self.alphas:
            self._hebbian(alpha)

    def check(self, network: nn.Module) -> None:
        """Refuses a network without HaH blocks, with more than there are alphas, or where K is out of its range."""
        blocks = hah_blocks(network)
        if not blocks:
            raise UserError(
                f"a Hebbian cost needs HaH blocks, and {type(network).__name__} has none; use HaHVGG16, or "
                "WithHaHBlocks around another network"
            )
        if len(self.alphas) < len(blocks):
            left = ", ".join(name for name, _ in blocks[len(self.alphas) :])
            raise UserError(
                f"expected an alpha for each of {len(blocks)} HaH blocks, got {len(self.alphas)}: none for {left}"
            )
        for (name, block), alpha in zip(blocks, self.alphas, strict=False):
            try:
                self._hebbian(alpha).strong(block.conv.out_channels)
            except UserError as error:
                raise UserError(f"{name}: {error}") from None

    @contextmanager
    def collecting(self, network: nn.Module) -> Iterator[Callable[[], Terms]]:
        """Gives a term `hah/<block>` for each block."""
        learners: dict[str, HebbianLearner] = {}
        blocks = hah_blocks(network)
        for (name, block), alpha in zip(blocks, self.alphas, strict=False):
            learners[name] = block.learner = HebbianLearner(self._hebbian(alpha), propagate=self.propagate)
        try:
            yield lambda: {
                f"hah/{name}": learner.cost for name, learner in learners.items() if learner.cost is not None
            }
        finally:
            for _, block in blocks:
                block.learner = None

    def _hebbian(self, alpha: float) -> Hebbian:
        return Hebbian(alpha=alpha, lam=self.lam, fraction=self.fraction)


@dataclass(frozen=True, kw_only=True)
class WeightL1(LayerCost):
    """The mean L1 norm of a convolution's filters, summed over the convolutions.

    It is part of the published code of the dissertation's chapter 5, but switched off there.

    Args:
        scale: Weight of the penalty.

    Raises:
        UserError: If `scale` is negative.
    """

    scale: float = 0.001

    def __post_init__(self) -> None:
        if self.scale < 0:
            raise UserError(f"expected scale of the L1 penalty to be 0 or more, got {self.scale}")

    def check(self, network: nn.Module) -> None:
        """Refuses a network without convolutions."""
        if not _convolutions(network):
            raise UserError(f"an L1 penalty on filters needs convolutions, and {type(network).__name__} has none")

    @contextmanager
    def collecting(self, network: nn.Module) -> Iterator[Callable[[], Terms]]:
        """Gives the term `l1`."""

        def terms() -> Terms:
            norms = [conv.weight.abs().sum((1, 2, 3)).mean() for conv in _convolutions(network)]
            return {"l1": self.scale * sum(norms[1:], start=norms[0])}

        yield terms


def _convolutions(network: nn.Module) -> list[nn.Conv2d]:
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)]
