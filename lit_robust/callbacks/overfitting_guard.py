"""A guard against catastrophic overfitting while a network trains, and a report of robust overfitting at the end."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
from torch import nn

from lit_robust import runs
from lit_robust.attacks import PGD, Attack
from lit_robust.attacks.minimum_norm import counted_in
from lit_robust.callbacks.held_out_probe import CLEAN, PROBE, TRAINING, held_out_accuracies
from lit_robust.callbacks.overfitting_rule import BestSoFar, State
from lit_robust.callbacks.subject import network_of
from lit_robust.errors import UserError

GOOD = "good.ckpt"  # beside the last and the best checkpoint

Policy = Literal["warn", "stop", "rollback"]


class OverfittingGuard(pl.Callback):
    """Watches an adversarial training with a small attack on held-out images, as an entry of `trainer.callbacks`.

    A network that is trained against a single step can come to resist that step alone: within an epoch its accuracy
    under PGD falls to almost nothing, while that under the training attack stays or grows (catastrophic overfitting;
    Wong et al., 2020, section 5.4). At the end of an epoch the guard measures both, and `BestSoFar.judge` says which
    figures count as a collapse. They are logged as `guard/probe_acc`, `guard/train_attack_acc` and `guard/clean_acc`,
    with `guard/collapsed` of 0 or 1. It looks at the same images with the same noise every time; the first process
    measures and tells the others, so that all do the same, and a resumed run goes on with what was seen.

    Each epoch's end that is `good` is kept as `checkpoints/good.ckpt`. After a collapse

    - `warn` says so and trains on;
    - `stop` ends the training; the last checkpoint is then that of the collapsed network;
    - `rollback` puts the weights, the buffers and the optimizer's momenta of the good checkpoint back. The epochs are
      not repeated: the schedule, the number of the epoch and with it the order of the data and the noise go on, so that
      the same steps are not taken again. The learning rate is multiplied by `lr_factor`. After the last allowed
      rollback the next collapse is rolled back too, and ends the training. Without a good checkpoint it ends as well.

    Early stopping counts for robust accuracy too: the best checkpoint is often better than the last (robust
    overfitting; Rice et al., 2020). At the end of the training the accuracies of both under the probe are printed and
    logged as `guard/best_probe_acc`, `guard/last_probe_acc` and `guard/best_minus_last`.

    Args:
        policy: What happens after a collapse.
        probe: The attack that measures; None for PGD with 10 steps of a quarter of the radius from a random start, in
            the threat model of the training attack.
        samples: Images that are looked at, the first of the validation part, or as many as it has.
        every_n_epochs: Epochs between two looks.
        rollbacks: How often training may be rolled back and go on.
        lr_factor: What the learning rate is multiplied by at a rollback, in (0, 1]. A schedule with peaks of its
            own, such as `OneCycleLR`, overrides it.
        seed: Seed of the noise.

    Raises:
        UserError: If a setting is out of range.
    """

    def __init__(
        self,
        *,
        policy: Policy = "warn",
        probe: Attack | None = None,
        samples: int = 256,
        every_n_epochs: int = 1,
        rollbacks: int = 3,
        lr_factor: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if policy not in ("warn", "stop", "rollback"):
            raise UserError(f"expected policy of OverfittingGuard to be warn, stop or rollback, got {policy!r}")
        if samples < 1 or every_n_epochs < 1 or rollbacks < 0:
            raise UserError(
                "expected samples and every_n_epochs of OverfittingGuard of at least 1 and rollbacks of 0 or more, got "
                f"{samples}, {every_n_epochs} and {rollbacks}"
            )
        if not 0 < lr_factor <= 1:
            raise UserError(f"expected lr_factor of OverfittingGuard in (0, 1], got {lr_factor}")
        self.policy, self.samples, self.every_n_epochs = policy, samples, every_n_epochs
        self.rollbacks, self.lr_factor, self.seed = rollbacks, lr_factor, seed
        self._given = probe
        self._folder = Path()
        self._best = BestSoFar()
        self._rolled_back = 0
        self._collapsed = False  # whether the last look saw a collapse
        self._stage = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuses what could not be measured, before any work.

        Raises:
            UserError: If there is no validation part, the regime has no attack, or its attack no radius.
        """
        if stage != "fit":
            return
        data = getattr(trainer, "datamodule", None)
        if data is None or not getattr(data, "val_split", 0):
            raise UserError(
                "OverfittingGuard looks at held-out images and needs a data module of lit_robust.data with a "
                "validation part; set data.val_split to 0.1, say"
            )
        probe, training = self._probe(pl_module), _training_attack(pl_module)
        for attack in (probe, training):
            counted_in(attack).check_shape(data.image_shape)
        if probe.targeted or not probe.adversarial:
            raise UserError(f"expected the probe of OverfittingGuard to be an untargeted attack, got {probe.label}")
        self._folder = Path(trainer.strategy.broadcast(str(trainer.default_root_dir))) / "checkpoints"

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Looks, if it is time to; before the epoch's checkpoint, which holds what was seen and done."""
        behind = trainer.current_epoch + 1
        if behind % self.every_n_epochs or not getattr(pl_module, "attack_summary", "attack"):
            return  # the regime does not attack in this stage
        place = getattr(pl_module, "place", None)
        if place is not None and place.stage != self._stage:  # another training with other weights has begun
            self._best, self._stage = BestSoFar(), place.stage
        seen = self._measure(trainer, pl_module)
        state = self._judge(trainer, pl_module, seen)
        self._best.add(seen[PROBE], seen[TRAINING], behind)
        pl_module.log_dict(
            {f"guard/{name}_acc": value for name, value in seen.items()}
            | {"guard/collapsed": float(state == "collapsed")},
            sync_dist=True,
        )
        if state == "good":
            self._best.good = behind
            trainer.save_checkpoint(self._folder / GOOD, weights_only=False)
        if state == "collapsed":
            self._act(trainer, behind, seen)
        self._collapsed = state == "collapsed" and self.policy == "warn"

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Says how the best and the last network do under the probe."""
        if not trainer.is_global_zero:
            return
        network, path = network_of(pl_module), runs.checkpoint(self._folder.parent, "best")
        last = self._measured(trainer, network, self._probe(pl_module), None)[PROBE]
        best, which = self._best.probe, f"best seen in training, after epoch {self._best.epoch}"
        if path is not None:
            best, which = self._of_file(trainer, pl_module, path), "best checkpoint"
        values = {"best_probe_acc": best, "last_probe_acc": last, "best_minus_last": best - last}
        for logger in trainer.loggers:
            logger.log_metrics({f"guard/{name}": value for name, value in values.items()}, step=trainer.global_step)
        print(
            f"guard: robust accuracy against {self._probe(pl_module).label} on {self._count(trainer)} held-out images: "
            f"{which} {best:.1%}, last {last:.1%}, difference {100 * (best - last):+.1f} points",
            flush=True,
        )

    def state_dict(self) -> dict[str, Any]:
        """What was seen and done so far."""
        return {
            "best": asdict(self._best),
            "rolled_back": self._rolled_back,
            "collapsed": self._collapsed,
            "stage": self._stage,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what was seen and done."""
        self._best = BestSoFar(**state_dict["best"])
        self._rolled_back, self._collapsed = state_dict["rolled_back"], state_dict["collapsed"]
        self._stage = state_dict["stage"]

    def _probe(self, pl_module: pl.LightningModule) -> Attack:
        if self._given is not None:
            return self._given
        training = _training_attack(pl_module)
        threat = counted_in(training).eps
        if threat is None or not training.adversarial:
            raise UserError(
                f"OverfittingGuard cannot take a radius from {training.label}, which the network is trained with; set "
                "its probe, such as PGD with a threat"
            )
        return PGD(threat=counted_in(training))

    def _measure(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, float]:
        """What the first process measures, on all."""
        found: dict[str, float] = {}
        if trainer.is_global_zero:
            found = self._measured(trainer, network_of(pl_module), self._probe(pl_module), _training_attack(pl_module))
        shared: dict[str, float] = trainer.strategy.broadcast(found)
        return shared

    def _measured(
        self, trainer: pl.Trainer, network: nn.Module, probe: Attack, training: Attack | None
    ) -> dict[str, float]:
        data = trainer.datamodule  # type: ignore[attr-defined]
        return held_out_accuracies(network, data, probe, training, samples=self.samples, seed=self.seed)

    def _judge(self, trainer: pl.Trainer, pl_module: pl.LightningModule, seen: dict[str, float]) -> State:
        training = _training_attack(pl_module)
        alike = training.adversarial and counted_in(training) == counted_in(self._probe(pl_module))
        chance = 1 / trainer.datamodule.num_classes  # type: ignore[attr-defined]
        return self._best.judge(seen[PROBE], seen[TRAINING], alike=alike, chance=chance)

    def _act(self, trainer: pl.Trainer, behind: int, seen: dict[str, float]) -> None:
        """Does what the policy says, on every process."""
        done = ""
        if self.policy == "stop":
            done, trainer.should_stop = "training stops", True
        elif self.policy == "rollback":
            done = self._roll_back(trainer)
        elif self._collapsed:  # said already
            return
        if trainer.is_global_zero:
            print(
                f"guard: catastrophic overfitting after epoch {behind}: {seen[PROBE]:.1%} of held-out images withstand "
                f"the probe (best {self._best.probe:.1%}, after epoch {self._best.epoch}), {seen[TRAINING]:.1%} the "
                f"training attack, {seen[CLEAN]:.1%} are right without one; {done or 'training goes on'}",
                flush=True,
            )

    def _roll_back(self, trainer: pl.Trainer) -> str:
        path = self._folder / GOOD
        trainer.should_stop = self._rolled_back >= self.rollbacks or not self._best.good
        if not self._best.good:
            return "no epoch was good, so there is nothing to go back to, and training stops"
        _restore(trainer, runs.load_checkpoint(path))
        if trainer.should_stop:
            return f"back to {path.name}, and training stops after {self._rolled_back} rollbacks"
        self._rolled_back += 1
        _scale_learning_rates(trainer, self.lr_factor)
        return f"back to {path.name} of epoch {self._best.good} (rollback {self._rolled_back} of {self.rollbacks})"

    def _of_file(self, trainer: pl.Trainer, pl_module: pl.LightningModule, path: Path) -> float:
        """Accuracy of a checkpoint's network under the probe; the network is afterwards as before."""
        network = network_of(pl_module)
        own = {name: value.clone() for name, value in network.state_dict().items()}
        try:
            runs.load_weights(network, runs.network_weights(runs.load_checkpoint(path)), path)
            return self._measured(trainer, network, self._probe(pl_module), None)[PROBE]
        finally:
            network.load_state_dict(own)

    def _count(self, trainer: pl.Trainer) -> int:
        return min(self.samples, len(trainer.datamodule.split[1]))  # type: ignore[attr-defined]


def _training_attack(pl_module: pl.LightningModule) -> Attack:
    attack = getattr(pl_module, "attack", None)
    if not isinstance(attack, Attack):
        raise UserError(
            f"OverfittingGuard compares with the attack that a network is trained against, but "
            f"{type(pl_module).__name__} trains against none; leave the guard out"
        )
    return attack


def _restore(trainer: pl.Trainer, checkpoint: dict[str, Any]) -> None:
    """Puts weights, buffers and the optimizers' momenta of a checkpoint back, and leaves the learning rates alone."""
    trainer.strategy.load_model_state_dict(checkpoint)
    for optimizer, saved in zip(trainer.optimizers, checkpoint["optimizer_states"], strict=True):
        optimizer.load_state_dict({**saved, "param_groups": optimizer.state_dict()["param_groups"]})


def _scale_learning_rates(trainer: pl.Trainer, factor: float) -> None:
    """Multiplies the learning rates now, and those that schedules start from."""
    for optimizer in trainer.optimizers:
        for group in optimizer.param_groups:
            group.update({key: group[key] * factor for key in ("lr", "initial_lr") if key in group})
    for config in trainer.lr_scheduler_configs:
        peaks = getattr(config.scheduler, "base_lrs", None)
        if peaks is not None:
            config.scheduler.base_lrs = [peak * factor for peak in peaks]
