"""A progress bar that names the attack."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import TQDMProgressBar

from lit_robust.callbacks.robust_eval import RobustEval


class AttackProgressBar(TQDMProgressBar):
    """Lightning's progress bar, with the attack that runs now or that the regime trains against."""

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Metrics beside the bar."""
        metrics: dict[str, Any] = dict(super().get_metrics(trainer, pl_module))
        metrics.pop("v_num", None)
        evaluating = next((c.running for c in trainer.callbacks if isinstance(c, RobustEval)), "")  # type: ignore[attr-defined]
        attack = evaluating or (getattr(pl_module, "attack_summary", "") if trainer.training else "")
        if attack:
            metrics["attack"] = attack
        return metrics
