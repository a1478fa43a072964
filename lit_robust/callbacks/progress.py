"""A progress bar that names the attack."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import TQDMProgressBar

from lit_robust.callbacks.robust_eval import RobustEval


class AttackProgressBar(TQDMProgressBar):
    """Lightning's progress bar, with the attack that the regime trains against or that an evaluation runs now.

    Args:
        refresh_rate: Batches between updates.
    """

    def __init__(self, refresh_rate: int = 10) -> None:
        super().__init__(refresh_rate=refresh_rate)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Listens to evaluations."""
        super().setup(trainer, pl_module, stage)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, RobustEval) and self.show not in callback.listeners:
                callback.listeners.append(self.show)

    def show(self, attack: str) -> None:
        """Names the attack beside the bar of the evaluation that runs."""
        for bar in (self._test_progress_bar, self._val_progress_bar):
            if bar is not None and not bar.disable:
                bar.set_postfix_str(f"attack={attack}")

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Metrics beside the bar of training."""
        metrics: dict[str, Any] = dict(super().get_metrics(trainer, pl_module))
        metrics.pop("v_num", None)
        attack = getattr(pl_module, "attack_summary", "")
        if attack:
            metrics["attack"] = attack
        return metrics
