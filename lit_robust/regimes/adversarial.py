"""Adversarial training: every image is replaced by an attacked one."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lit_robust.regimes.base import AttackedClassifier


class AdversarialTraining(AttackedClassifier):
    """Cross-entropy on attacked images (Madry et al., 2018); arguments as for `AttackedClassifier`.

    With `PGD` it is PGD training, with `RFGSM` fast training (Wong et al., 2020), with `GaussianNoise` noise training.
    """

    def loss(self, x: Tensor, y: Tensor, key: Tensor) -> dict[str, Tensor]:
        """`ce`: mean cross-entropy of the attacked images."""
        with self.attacking() as network:
            x_adv = self.attack(network, x, y, key=key)
        return {"ce": F.cross_entropy(self.network(x_adv), y)}
