"""What every regime shares: steps, named loss terms, metrics, optimizers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics.classification import MulticlassAccuracy

from lit_robust import sampling
from lit_robust.attacks import Attack
from lit_robust.checks import check_classifier
from lit_robust.errors import UserError
from lit_robust.modes import network_mode
from lit_robust.nn.layer_costs import LayerCost
from lit_robust.regimes.collapse import refuse_collapse
from lit_robust.schedules import RunSchedule

OptimizerCallable = Callable[[Iterator[nn.Parameter]], Optimizer]
SchedulerCallable = Callable[[Optimizer], LRScheduler]
Batch = tuple[Tensor, Tensor, Tensor]  # images in [0, 1] (N, C, H, W), labels (N,), indices in the data set (N,)


class NonFiniteLossError(UserError):
    """A loss term became NaN or infinite; the last checkpoint is from before."""


class RobustClassifier(pl.LightningModule, ABC):
    """Trains a classifier; a subclass says how by its `loss`.

    Args:
        network: Images in [0, 1], (N, C, H, W), to logits, (N, classes).
        optimizer: Builds the optimizer from the trainable parameters.
        lr_scheduler: Builds the schedule. `StepDecay` and `Triangular` count in fractions of the run and step every
            batch; PyTorch's own step every epoch.
        layer_costs: Costs on layers that are added to the loss.
    """

    val_metrics = ("val/acc",)  # what a checkpoint may be chosen by, besides what callbacks measure

    def __init__(
        self,
        network: nn.Module,
        *,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: SchedulerCallable | None = None,
        layer_costs: Sequence[LayerCost] = (),
    ) -> None:
        super().__init__()
        self.network = network
        self._optimizer = optimizer
        self._lr_scheduler = lr_scheduler
        self.layer_costs = layer_costs
        self._sums: dict[str, Tensor] = {}  # of each loss term over the epoch
        self._count = 0
        self.val_acc = MulticlassAccuracy(num_classes=None, average="micro")
        self.test_acc = MulticlassAccuracy(num_classes=None, average="micro")

    @abstractmethod
    def loss(self, x: Tensor, y: Tensor, key: Tensor) -> dict[str, Tensor]:
        """Terms of the training loss, whose sum is minimised; each is logged as `train/<name>`.

        Args:
            x: Images in [0, 1], (N, C, H, W).
            y: Labels, (N,).
            key: Noise keys of the samples in this epoch, (N,), for attacks and random layers.
        """

    @property
    def attack_summary(self) -> str:
        """The attack that it trains against, for the progress bar; empty if none."""
        return ""

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images, (N, classes)."""
        logits: Tensor = self.network(x)
        return logits

    def setup(self, stage: str) -> None:
        """Refuses a network that does not fit the data, before any work."""
        data = getattr(self.trainer, "datamodule", None)
        if data is not None:
            self.check(data)

    def check(self, data: Any) -> None:  # noqa: ANN401 - anything with `image_shape` and `num_classes`
        """Refuses a network that does not fit the data.

        Raises:
            UserError: See `check_classifier`.
        """
        check_classifier(self.network, data.image_shape, data.num_classes)
        for cost in self.layer_costs:
            cost.check(self.network)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Sum of the loss terms.

        Raises:
            NonFiniteLossError: If a term is NaN or infinite.
            CollapsedBlockError: If a HaH block lets nothing through on most images.
        """
        x, y, index = batch
        key = sampling.keys(index, seed=sampling.run_seed(), epoch=self.current_epoch)
        # Not the step of any attack: the network is not to be trained on the very noise that the attack has seen.
        with sampling.Noise(key).keyed(sampling.UPDATE), ExitStack() as stack:
            collected = [stack.enter_context(cost.collecting(self.network)) for cost in self.layer_costs]
            terms = self.loss(x, y, key)
            for of_layers in collected:
                terms |= of_layers()
        total = torch.stack(list(terms.values())).sum()
        if not torch.isfinite(total):
            values = ", ".join(f"{name} = {term.item():g}" for name, term in terms.items())
            raise NonFiniteLossError(
                f"the loss is not finite at step {self.global_step} (epoch {self.current_epoch}): {values}. The last "
                "checkpoint is from before; lower the learning rate or clip gradients (trainer.gradient_clip_val)"
            )
        refuse_collapse(self.network, self.current_epoch)
        self.log("train/loss", total.detach(), prog_bar=True, batch_size=len(x))
        for name, term in terms.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(term)) + len(x) * term.detach()
        self._count += len(x)
        return total

    def on_train_epoch_end(self) -> None:
        """Logs the mean of each loss term over the epoch."""
        self.log_dict({f"train/{name}": total / self._count for name, total in self._sums.items()}, sync_dist=True)
        self._sums, self._count = {}, 0

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the sums of the loss terms so far, which Lightning would forget in the middle of an epoch."""
        checkpoint["loss_terms"] = {"sums": dict(self._sums), "count": self._count}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores the sums of the loss terms."""
        terms = checkpoint.get("loss_terms", {"sums": {}, "count": 0})
        self._sums = {name: total.to(self.device) for name, total in terms["sums"].items()}
        self._count = terms["count"]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Clean loss and accuracy on the validation part of the training set."""
        self._evaluate(batch, "val", self.val_acc)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Clean loss and accuracy on the test set."""
        self._evaluate(batch, "test", self.test_acc)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Index, label, prediction and confidence of each image."""
        x, y, index = batch
        with sampling.Noise(sampling.keys(index)).keyed(sampling.CHECK):
            confidence, prediction = self(x).softmax(1).max(1)
        return {"index": index, "label": y, "prediction": prediction, "confidence": confidence}

    def _evaluate(self, batch: Batch, split: str, accuracy: MulticlassAccuracy) -> None:
        x, y, index = batch
        with sampling.Noise(sampling.keys(index)).keyed(sampling.CHECK):
            logits = self(x)
        accuracy.update(logits.argmax(1), y)
        self.log(f"{split}/acc", accuracy, batch_size=len(x), prog_bar=split == "val")
        self.log(f"{split}/loss", F.cross_entropy(logits, y), batch_size=len(x), sync_dist=True)

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning accepts many shapes
        """The optimizer over the trainable parameters, and its schedule."""
        parameters = [p for p in self.parameters() if p.requires_grad]
        if not parameters:
            raise UserError(f"{type(self.network).__name__} has no trainable parameter; is it frozen (FromRun)?")
        optimizer = self._optimizer(iter(parameters))
        if self._lr_scheduler is None:
            return optimizer
        scheduler = self._lr_scheduler(optimizer)
        interval = "step" if isinstance(scheduler, RunSchedule) else "epoch"
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": interval}}

    def on_train_start(self) -> None:
        """Tells the schedule how long the run is.

        Not where it is built: asking earlier makes Lightning set up the data before it has restored a checkpoint's
        position in them.
        """
        for config in self.trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, RunSchedule):
                config.scheduler.total_steps = self.trainer.estimated_stepping_batches


class AttackedClassifier(RobustClassifier, ABC):
    """A regime that attacks its own network while it trains.

    Args:
        network: As for `RobustClassifier`.
        attack: The attack that it trains against.
        optimizer: As for `RobustClassifier`.
        lr_scheduler: As for `RobustClassifier`.
        attack_mode: Mode of the network during the attack: `eval`, or `train`, where batch normalisation uses the
            statistics of the attacked batch.
        attack_moves_statistics: In train mode, whether the attack's forward passes move the running statistics.
        layer_costs: As for `RobustClassifier`.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        attack: Attack,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: SchedulerCallable | None = None,
        attack_mode: Literal["eval", "train"] = "eval",
        attack_moves_statistics: bool = False,
        layer_costs: Sequence[LayerCost] = (),
    ) -> None:
        super().__init__(network, optimizer=optimizer, lr_scheduler=lr_scheduler, layer_costs=layer_costs)
        self.attack = attack
        self.attack_mode = attack_mode
        self.attack_moves_statistics = attack_moves_statistics

    @property
    def attack_summary(self) -> str:
        """Short name of the attack."""
        return self.attack.label

    def check(self, data: Any) -> None:  # noqa: ANN401 - as for `RobustClassifier`
        """Refuses a network that does not fit the data, and a radius that holds every image."""
        super().check(data)
        self.attack.threat_model.check_shape(data.image_shape)

    @contextmanager
    def attacking(self) -> Iterator[nn.Module]:
        """The network in the mode that it is attacked in."""
        train = self.attack_mode == "train"
        with network_mode(self.network, train=train, statistics_move=self.attack_moves_statistics):
            yield self.network
