"""Natural training."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lit_robust.regimes.base import RobustClassifier


class Natural(RobustClassifier):
    """Cross-entropy on clean images: the undefended baseline."""

    def loss(self, x: Tensor, y: Tensor, key: Tensor) -> dict[str, Tensor]:
        """`ce`: mean cross-entropy."""
        return {"ce": F.cross_entropy(self.network(x), y)}
