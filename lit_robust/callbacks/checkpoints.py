"""Checkpoints from which a run goes on as if it had never stopped."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import WandbLogger

from lit_robust import runs
from lit_robust.errors import UserError

STATE = "lit_robust"  # key of what this callback adds to a checkpoint


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it, so that a killed process leaves the previous one whole."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: object = None
    ) -> None:
        """Saves a checkpoint in one step as seen by other processes."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_suffix(".part")
        with aside.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, target)


class Checkpoints(Checkpoint):
    """Keeps the last checkpoint and, by a validation metric, the best one.

    The last is written after every epoch and every `every_n_steps` batches, with the states of the random generators.

    Args:
        monitor: Validation metric of the best checkpoint, such as `val/acc` or `val/robust`; higher is better.
        select: Which one results are reported for: the `best`, or the `last`, where none is chosen by a metric.
        every_n_steps: Batches between checkpoints within an epoch; 0 for none.
    """

    def __init__(
        self, monitor: str = "val/acc", select: Literal["best", "last"] = "best", every_n_steps: int = 200
    ) -> None:
        super().__init__()
        self.monitor = monitor
        self.select = select
        self.every_n_steps = every_n_steps
        self.folder: Path | None = None
        self.best: float | None = None
        self._generators: dict[str, Any] | None = None
        self._writing = ""
        if every_n_steps < 0:
            raise UserError(f"expected checkpoints.every_n_steps to be 0 or more, got {every_n_steps}")
        if monitor.endswith("loss"):
            raise UserError(f"checkpoints.monitor: the best checkpoint has the highest {monitor}; name an accuracy")

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuses a selection that cannot be made, before any work.

        Raises:
            UserError: If the best is asked for and there is no validation set, or no such metric.
        """
        if self.folder is None:
            self.folder = Path(trainer.default_root_dir) / "checkpoints"
        val_split = getattr(getattr(trainer, "datamodule", None), "val_split", None)
        if stage == "fit" and self.select == "best" and val_split == 0:
            raise UserError(
                "checkpoints.select: best needs a validation set, but data.val_split is 0; set checkpoints.select: last"
            )

        measured = getattr(pl_module, "val_metrics", None)  # a stranger's module may log anything
        if stage == "fit" and self.select == "best" and measured is not None:
            evaluated = any(getattr(c, "val_attack", None) for c in trainer.callbacks)  # type: ignore[attr-defined]
            known = [*measured, *(["val/robust"] if evaluated else [])]
            if self.monitor not in known:
                raise UserError(
                    f"checkpoints.monitor: no metric {self.monitor!r}; validation gives {', '.join(known)}"
                    + ("" if evaluated else " (and val/robust with evaluation.val_attack)")
                )

    def state_dict(self) -> dict[str, Any]:
        """The best value so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the best value so far."""
        self.best = state_dict["best"]

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Adds the states of the random generators and the W&B run."""
        wandb = next((logger for logger in trainer.loggers if isinstance(logger, WandbLogger)), None)
        checkpoint[STATE] = {
            "generators": _generator_states(),
            "wandb_id": None if wandb is None else wandb.version,
            "metric": {"name": self.monitor, "value": self.best} if self._writing == runs.BEST else None,
            # Rows of later steps are written again by a resumed run.
            "logged_below": trainer.global_step,
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keeps the generators' states for the first batch."""
        self._generators = checkpoint.get(STATE, {}).get("generators")

    def on_train_batch_start(self, trainer: pl.Trainer, *args: object) -> None:
        """Puts the random generators back, after everything that draws during a start."""
        if self._generators is not None:
            _restore_generators(self._generators)
            self._generators = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Writes the last checkpoint every `every_n_steps` batches.

        Not before a validation, which the resumed run would skip (the epoch's end has a checkpoint of its own), nor
        between the optimizer steps of accumulated gradients, which would be lost.
        """
        done = batch_idx + 1
        due = self.every_n_steps > 0 and done % self.every_n_steps == 0
        every = trainer.val_check_batch  # None where validation goes by time
        validates = trainer.is_last_batch or (every is not None and done % int(every) == 0)
        if due and not validates and done % trainer.accumulate_grad_batches == 0:
            self._save(trainer, runs.LAST)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the best checkpoint if the metric is higher than ever."""
        if trainer.sanity_checking or trainer.state.fn != "fit" or self.select == "last":
            return
        value = trainer.callback_metrics.get(self.monitor)  # None where it is not measured in every epoch
        if value is not None and (self.best is None or float(value) > self.best):
            self.best = float(value)
            self._save(trainer, runs.BEST)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the last checkpoint."""
        self._save(trainer, runs.LAST)

    def _save(self, trainer: pl.Trainer, name: str) -> None:
        assert self.folder is not None, "setup comes first"
        _refuse_ruined(trainer)
        self._writing = name
        trainer.save_checkpoint(self.folder / name, weights_only=False)


def _refuse_ruined(trainer: pl.Trainer) -> None:
    """Keeps the last checkpoint from before, where weights or validation loss are no longer finite."""
    weights = trainer.lightning_module.parameters()
    loss = trainer.callback_metrics.get("val/loss")
    if not all(w.isfinite().all() for w in weights) or (loss is not None and not torch.isfinite(loss)):
        raise UserError(
            f"weights or validation loss are not finite after step {trainer.global_step}; the last checkpoint is from "
            "before. Lower the learning rate or clip gradients (trainer.gradient_clip_val)"
        )


def _generator_states() -> dict[str, Any]:
    version, state, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
        "python": [version, list(state), gauss],
    }


def _restore_generators(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["torch"])
    if states["cuda"] and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
    kind, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    version, state, gauss = states["python"]
    random.setstate((version, tuple(state), gauss))
