"""Adversarial training: every image is replaced by an attacked one."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_robust.attacks import Attack
from lit_robust.regimes.base import AttackedClassifier, OptimizerCallable, SchedulerCallable


class AdversarialTraining(AttackedClassifier):
    """Cross-entropy on attacked images (Madry et al., 2018).

    With `PGD` it is PGD training, with `RFGSM` fast training (Wong et al., 2020), with `GaussianNoise` noise training.

    Args:
        network: As for `RobustClassifier`.
        attack: What the images are replaced by.
        optimizer: As for `RobustClassifier`.
        lr_scheduler: As for `RobustClassifier`.
        attack_mode: As for `AttackedClassifier`.
        attack_moves_statistics: As for `AttackedClassifier`.
    """

    def __init__(
        self,
        network: nn.Module,
        attack: Attack,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: SchedulerCallable | None = None,
        attack_mode: Literal["eval", "train"] = "eval",
        attack_moves_statistics: bool = False,
    ) -> None:
        super().__init__(network, optimizer, lr_scheduler, attack_mode, attack_moves_statistics)
        self.attack = attack

    @property
    def attack_summary(self) -> str:
        """Short name of the attack."""
        return self.attack.label

    def loss(self, x: Tensor, y: Tensor, key: Tensor) -> dict[str, Tensor]:
        """`ce`: mean cross-entropy of the attacked images."""
        with self.attacking() as network:
            x_adv = self.attack(network, x, y, key=key)
        return {"ce": F.cross_entropy(self.network(x_adv), y)}
