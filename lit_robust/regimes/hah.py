"""Hebbian/anti-Hebbian training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from lit_robust.nn.layer_costs import ALPHAS, HebbianCost, LayerCost, WeightL1
from lit_robust.regimes.base import OptimizerCallable, SchedulerCallable
from lit_robust.regimes.natural import Natural


class HaH(Natural):
    """Cross-entropy on clean images and a Hebbian/anti-Hebbian cost in each HaH block (dissertation, section 5.2.2).

    The same costs go with any other regime: give it `layer_costs: [HebbianCost]`.

    Args:
        network: A network with HaH blocks: `HaHVGG16`, or `WithHaHBlocks` around another one.
        alphas: As for `HebbianCost`.
        lam: As for `HebbianCost`.
        fraction: As for `HebbianCost`.
        propagate: As for `HebbianCost`.
        l1: Weight of `WeightL1`; 0 leaves it out, as the published runs do.
        optimizer: As for `RobustClassifier`.
        lr_scheduler: As for `RobustClassifier`.

    Raises:
        UserError: If a number is outside its range.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        alphas: Sequence[float] = ALPHAS,
        lam: float = 1.0,
        fraction: float = 0.1,
        propagate: bool = False,
        l1: float = 0.0,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: SchedulerCallable | None = None,
    ) -> None:
        costs: list[LayerCost] = [HebbianCost(alphas=alphas, lam=lam, fraction=fraction, propagate=propagate)]
        if l1:
            costs.append(WeightL1(scale=l1))
        super().__init__(network, optimizer=optimizer, lr_scheduler=lr_scheduler, layer_costs=costs)
