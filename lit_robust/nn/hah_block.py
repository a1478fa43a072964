"""The HaH block: a convolution that can learn by a Hebbian cost, divisive normalisation and a threshold."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_robust.nn.divisive_norm import DivisiveNorm
from lit_robust.nn.hebbian_conv import hebbian_convolution
from lit_robust.nn.hebbian_cost import Hebbian
from lit_robust.nn.threshold import FractionThreshold
from lit_robust.nn.weight_norm_conv import WeightNormConv2d

NormCallable = Callable[[int], nn.Module]
ThresholdCallable = Callable[[], nn.Module]


class HaHBlock(nn.Module):
    """Convolution with implicit weight normalisation, ReLU, divisive normalisation, threshold (dissertation, 5.2.1).

    While a training step collects a Hebbian cost, the convolution is computed together with it, and hooks and taps on
    `conv` see nothing; those on the block do.

    Args:
        conv: The convolution.
        norm: Builds the normalisation from the number of channels: `DivisiveNorm`, or `torch.nn.BatchNorm2d` for the
            ablation.
        threshold: Builds the threshold: `FractionThreshold`, `MeanThreshold`, or None for none.

    Attributes:
        learner: A Hebbian cost while a training step collects it, else None; see `lit_robust.nn.HebbianCost`.
        position: Place among the network's HaH blocks where they are not registered in the order of execution.
    """

    learner: HebbianLearner | None
    position: int

    def __init__(
        self,
        conv: WeightNormConv2d,
        *,
        norm: NormCallable = DivisiveNorm,
        threshold: ThresholdCallable | None = FractionThreshold,
    ) -> None:
        super().__init__()
        self.conv = conv
        self.norm = norm(conv.out_channels)
        self.threshold = None if threshold is None else threshold()
        self.learner = None
        self.position = 0

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H', W')."""
        # Max-pooling with stride 1 and convolutions are faster so on a CPU; nothing is copied where it is so already.
        x = x.contiguous(memory_format=torch.channels_last)
        learns = self.learner is not None and torch.is_grad_enabled() and self.conv.weight.requires_grad
        y = self.learner(self.conv, x) if learns and self.learner is not None else F.relu(self.conv(x))
        y = self.norm(y)
        return y if self.threshold is None else cast(Tensor, self.threshold(y))


class HebbianLearner:
    """Computes a block's activations together with its Hebbian cost, at the first forward pass that trains.

    Args:
        hebbian: The cost.
        propagate: Whether the cost's gradient also goes to the layers before, which lets them "cheat" (dissertation,
            Fig. 5.3).

    Attributes:
        cost: The cost of the block, once a forward pass has been made.
    """

    def __init__(self, hebbian: Hebbian, *, propagate: bool) -> None:
        self.hebbian = hebbian
        self.propagate = propagate
        self.cost: Tensor | None = None

    def __call__(self, conv: WeightNormConv2d, x: Tensor) -> Tensor:
        """ReLU(conv(x)), (N, C', H', W'); keeps the cost the first time."""
        if self.cost is not None:
            return F.relu(conv(x))
        if self.propagate:
            y = F.relu(conv(x))
            self.cost = self.hebbian.cost(y)
        else:
            y, self.cost = hebbian_convolution(x, conv, self.hebbian)
        return y


def hah_blocks(network: nn.Module) -> list[tuple[str, HaHBlock]]:
    """Names and HaH blocks of a network, in the order of execution."""
    blocks = [(name, module) for name, module in network.named_modules() if isinstance(module, HaHBlock)]
    return sorted(blocks, key=lambda named: named[1].position)
