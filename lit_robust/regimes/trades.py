"""TRADES."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_robust import sampling
from lit_robust.attacks import Attack
from lit_robust.errors import UserError
from lit_robust.nn.layer_costs import LayerCost
from lit_robust.regimes.base import AttackedClassifier, OptimizerCallable, SchedulerCallable


class TRADES(AttackedClassifier):
    """Clean cross-entropy plus the divergence of attacked from clean predictions (Zhang et al., 2019, Eq. 5).

    Clean and attacked images go through the network separately, as published: in one batch, batch normalisation would
    treat both jointly, which is another algorithm.

    Args:
        network: As for `RobustClassifier`.
        attack: The inner maximisation. It gets the clean prediction's probabilities for `y`, where cross-entropy has
            the gradient of the divergence. It may not start at the clean image, where that gradient is zero.
        beta: Weight of the divergence, 1/λ in the paper.
        optimizer: As for `RobustClassifier`.
        lr_scheduler: As for `RobustClassifier`.
        attack_mode: As for `AttackedClassifier`.
        attack_moves_statistics: As for `AttackedClassifier`.
        layer_costs: As for `RobustClassifier`.

    Raises:
        UserError: If the attack starts at the clean image.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        attack: Attack,
        beta: float = 6.0,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: SchedulerCallable | None = None,
        attack_mode: Literal["eval", "train"] = "eval",
        attack_moves_statistics: bool = False,
        layer_costs: Sequence[LayerCost] = (),
    ) -> None:
        super().__init__(
            network,
            attack=attack,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            attack_mode=attack_mode,
            attack_moves_statistics=attack_moves_statistics,
            layer_costs=layer_costs,
        )
        if _starts_clean(attack):
            raise UserError(
                "TRADES' inner attack has start: clean, where the gradient of the divergence is exactly zero, so that "
                "it would never move; set start: gaussian (as published) or start: random"
            )
        self.beta = beta

    def loss(self, x: Tensor, y: Tensor, key: Tensor) -> dict[str, Tensor]:
        """`ce`: mean clean cross-entropy; `kl`: beta times the mean KL(clean ‖ attacked)."""
        with self.attacking() as network:
            with torch.no_grad(), sampling.keyed(key):
                clean = network(x).softmax(1)
            x_adv = self.attack(network, x, clean, key=key)
        logits = self.network(x)
        log_attacked = F.log_softmax(self.network(x_adv), dim=1)
        # The target is not detached, as published: the clean prediction moves towards the attacked one too.
        kl = F.kl_div(log_attacked, F.softmax(logits, dim=1), reduction="batchmean")
        return {"ce": F.cross_entropy(logits, y), "kl": self.beta * kl}


def _starts_clean(attack: Attack) -> bool:
    """Whether an attack, or any that it is made of, starts at the clean image."""
    inner = [getattr(attack, "attack", None), *getattr(attack, "attacks", ())]
    return getattr(attack, "start", None) == "clean" or any(_starts_clean(a) for a in inner if a is not None)
