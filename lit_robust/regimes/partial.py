"""Partial adversarial training: which layers carry robustness."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_robust import sampling
from lit_robust.attacks import Attack
from lit_robust.errors import UserError
from lit_robust.nn.layer_costs import LayerCost
from lit_robust.regimes.base import AttackedClassifier, Batch, OptimizerCallable, SchedulerCallable
from lit_robust.regimes.first_stage import load_first_stage
from lit_robust.regimes.partial_layers import Code, Kind, partial_layers, stage_kind
from lit_robust.schedules import RunSchedule
from lit_robust.stages import StagePlace, stage_place


class PartialTraining(AttackedClassifier):
    """One part of a network trained adversarially, the other naturally (dissertation, section 3.1).

    A code gives the training, A (adversarial) or N (natural), and the stage, 1 or 2, of the early layers and then of
    the late ones. In stage 1 the whole network is trained. For stage 2 the layers of stage 1 are frozen, to the bit,
    and the others are reinitialised and trained, with a new optimizer and the whole schedule: A1N2 keeps the early
    layers of an adversarially trained network under late layers that are trained naturally. A frozen batch
    normalisation keeps its scale and shift, but stays in train mode: it uses the statistics of the batch, and its
    running ones move on from those of stage 1. Those of a reinitialised one start anew. What a reinitialised layer gets
    depends on the seed and its name, not on the cutoff.

    Args:
        network: As for `RobustClassifier`.
        attack: The attack of adversarial training.
        code: A1N2, N1A2, A2N1 or N2A1, or one of the controls N1N2, A1A2, N2N1 and A2A1.
        cutoff: Where early layers end: the name of the first late layer, or the number of early layers; see
            `lit_robust.layer_order.position`.
        layer: In place of a cutoff, the one layer that is retrained, by a code x2y1, while all others are kept.
        first_stage: Run folder of a network trained as stage 1. None trains it in this run: each stage then has half of
            the epochs, so that `trainer.max_epochs` is that of both together.
        optimizer: As for `RobustClassifier`.
        lr_scheduler: As for `RobustClassifier`; fractions of the run are fractions of a stage.
        attack_mode: As for `AttackedClassifier`.
        attack_moves_statistics: As for `AttackedClassifier`.
        layer_costs: As for `RobustClassifier`; in stage 2 they train the layers that are retrained.

    Attributes:
        layers: Names of the layers that are kept and of those that are retrained.

    Raises:
        UserError: If code, cutoff or layer do not fit the network.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        attack: Attack,
        code: Code,
        cutoff: int | str | None = None,
        layer: int | str | None = None,
        first_stage: str | None = None,
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
        self.layers = partial_layers(network, code, cutoff=cutoff, layer=layer)
        self.code = code
        self.first_stage = first_stage
        self._retrains = False  # whether the second stage has begun

    @property
    def place(self) -> StagePlace:
        """The stage that the run is in, 0 or 1: a pure function of the epoch and the number of epochs."""
        epoch, epochs = self.current_epoch, self.trainer.max_epochs or 1
        return stage_place(epoch, epochs, 2) if self.first_stage is None else StagePlace(1, epoch, epochs)

    @property
    def kind(self) -> Kind:
        """How the network is trained now: A or N."""
        return stage_kind(self.code, 2 if self.place.stage else 1)

    @property
    def attack_summary(self) -> str:
        """Short name of the attack; empty in natural training."""
        return self.attack.label if self.kind == "A" else ""

    def setup(self, stage: str) -> None:
        """Loads a first stage that is given, and refuses a run that has no room for one of its own."""
        super().setup(stage)
        if stage != "fit":
            return
        if self.first_stage is not None:
            data = getattr(self.trainer, "datamodule", None)
            load_first_stage(self.network, self.first_stage, self.code, None if data is None else type(data).__name__)
            return
        epochs = self.trainer.max_epochs
        if epochs is None or epochs < 0:
            raise UserError("without first_stage, the stages are halves of the run; set trainer.max_epochs")
        if any(getattr(callback, "select", None) == "best" for callback in self.trainer.checkpoint_callbacks):
            raise UserError(
                "the best checkpoint may be one of the first stage, which is not the network that is asked for; set "
                "checkpoints.select: last, or give first_stage"
            )
        if epochs < 2:
            warnings.warn(f"{epochs} epochs are too few for two stages; the second is left out", stacklevel=2)

    def on_train_start(self) -> None:
        """Tells the schedule how long the stage is.

        Raises:
            UserError: If `trainer.max_epochs` of a resumed run was raised so far that it would go back to stage 1.
        """
        super().on_train_start()
        if self._retrains and self.place.stage == 0:
            raise UserError(
                f"the run is in stage 2 at epoch {self.current_epoch}, and with trainer.max_epochs of "
                f"{self.trainer.max_epochs} it would go back to stage 1; the stages are halves of the run, so leave "
                "trainer.max_epochs as it was"
            )
        self._time_schedules()

    def on_train_epoch_start(self) -> None:
        """Begins the second stage where it is due: new weights, and nothing of the first stage's optimizer."""
        if self._retrains or self.place.stage == 0:
            return
        self.layers.reinitialise(self.network, sampling.run_seed())
        self.trainer.strategy.setup_optimizers(self.trainer)
        self._time_schedules()
        self._retrains = True

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Sum of the loss terms; in the second stage none of them has a gradient in what is kept."""
        if not self._retrains:
            return super().training_step(batch, batch_idx)
        with self.layers.frozen(self.network):
            total = super().training_step(batch, batch_idx)
        if self.trainer.world_size > 1:
            # Of value and gradient 0: distributed training waits for a gradient of every parameter.
            total = total + 0.0 * sum(p.sum() for p in self.layers.frozen_parameters(self.network))
        return total

    def loss(self, x: Tensor, y: Tensor, key: Tensor) -> dict[str, Tensor]:
        """`ce`: mean cross-entropy of the attacked or of the clean images."""
        if self.kind == "A":
            with self.attacking() as network:
                x = self.attack(network, x, y, key=key)
        return {"ce": F.cross_entropy(self.network(x), y)}

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Takes the gradients of what is kept away: one of zeros would let weight decay and momentum move it."""
        if self._retrains:
            for parameter in self.layers.frozen_parameters(self.network):
                parameter.grad = None

    def on_train_epoch_end(self) -> None:
        """Logs the means of the terms, and the stage, 1 or 2."""
        super().on_train_epoch_end()
        self.log("train/stage", float(self.place.stage + 1), sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds whether the second stage has begun, so that a resumed run does not begin it again."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["retrains"] = self._retrains

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores whether the second stage has begun."""
        super().on_load_checkpoint(checkpoint)
        self._retrains = bool(checkpoint.get("retrains", False))

    def _time_schedules(self) -> None:
        """Gives schedules in fractions of the run the optimizer steps of the stage in place of those of the run."""
        steps, place = self.trainer.estimated_stepping_batches, self.place
        for config in self.trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, RunSchedule):
                own = self.first_stage is not None
                config.scheduler.total_steps = steps if own else steps * place.epochs / (self.trainer.max_epochs or 1)
