"""Training of a polarizing front end, in stages."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_robust.errors import UserError
from lit_robust.nn.bumps import mean_bump
from lit_robust.nn.layer_costs import LayerCost
from lit_robust.nn.level_quantizer import checked_thresholds
from lit_robust.nn.polarizing import PolarizingFrontEnd, polarizing_front_end
from lit_robust.regimes.base import OptimizerCallable, RobustClassifier, SchedulerCallable
from lit_robust.stages import StagePlace, stage_place
from lit_robust.taps import Taps


class Polarizing(RobustClassifier):
    """Cross-entropy on clean images and bumps that polarize the front end's responses (dissertation, section 4.1.3.1).

    The run has stages of equal length. First, without quantiser, a bump at 0 spreads the responses over [−1, 1]. Then
    bumps at the thresholds clear the danger zones. In the last stage the front end is frozen to the bit, its quantiser
    is on, and the classifier alone adapts to it. The weight λ of a bump grows from 0 in the first epoch of its stage to
    `peak` in the last. Validation is always with the quantiser.

    Args:
        network: A network with one `PolarizingFrontEnd`.
        peak: λ at the end of a stage. The published code has 0.95; the text has 1.
        sigma1: Width of the first stage's bump.
        sigma2: Width of the bumps at thresholds.
        coarser: Thresholds of further stages between the first and that of the quantiser's own thresholds: fewer
            clusters first, as the section suggests for harder data. All stages are then shorter.
        optimizer: As for `RobustClassifier`.
        lr_scheduler: As for `RobustClassifier`.
        layer_costs: As for `RobustClassifier`.

    Raises:
        UserError: If the network has no polarizing front end, or several, or a number is out of its range.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        peak: float = 0.95,
        sigma1: float = 0.35,
        sigma2: float = 0.15,
        coarser: Sequence[Sequence[float]] = (),
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: SchedulerCallable | None = None,
        layer_costs: Sequence[LayerCost] = (),
    ) -> None:
        super().__init__(network, optimizer=optimizer, lr_scheduler=lr_scheduler, layer_costs=layer_costs)
        if not peak >= 0 or not sigma1 > 0 or not sigma2 > 0:
            raise UserError(
                f"expected peak of 0 or more, and sigma1 and sigma2 above 0, got {peak}, {sigma1} and {sigma2}"
            )
        polarizing_front_end(network)
        self.peak, self.sigma1, self.sigma2 = peak, sigma1, sigma2
        self.coarser = [checked_thresholds(list(thresholds)) for thresholds in coarser]
        self._restored = 0  # stage of the checkpoint that the run goes on from

    @property
    def front_end(self) -> PolarizingFrontEnd:
        """The front end."""
        return polarizing_front_end(self.network)[1]

    @property
    def stages(self) -> int:
        """Number of stages: 3, and one for each of `coarser`."""
        return 3 + len(self.coarser)

    @property
    def place(self) -> StagePlace:
        """The stage that the run is in, and the place in it: a pure function of the epoch and the number of epochs."""
        return stage_place(self.current_epoch, int(self.trainer.max_epochs or 1), self.stages)

    @property
    def lam(self) -> float:
        """λ in the current epoch; 0 in the last stage, which has no bump."""
        return 0.0 if self._settles else self.peak * self.place.ramp

    def setup(self, stage: str) -> None:
        """Refuses a run without a number of epochs, which has no stages."""
        super().setup(stage)
        epochs = self.trainer.max_epochs
        if stage != "fit":
            return
        if epochs is None or epochs < 0:
            raise UserError(f"the {self.stages} stages are equal parts of the run; set trainer.max_epochs")
        if epochs < self.stages:
            warnings.warn(
                f"{epochs} epochs are too few for {self.stages} stages; the last ones are left out", stacklevel=2
            )

    def on_train_start(self) -> None:
        """Refuses to go on in an earlier stage than that of the checkpoint.

        Raises:
            UserError: If `trainer.max_epochs` was raised so far that the stage would be an earlier one.
        """
        super().on_train_start()
        now, before = self.place.stage, self._restored
        if now < before:
            raise UserError(
                f"the run is in stage {before + 1} of {self.stages} at epoch {self.current_epoch}, and with "
                f"trainer.max_epochs of {self.trainer.max_epochs} it would go back to stage {now + 1}; the stages are "
                "equal parts of the run, so leave trainer.max_epochs as it was"
            )

    def loss(self, x: Tensor, y: Tensor, key: Tensor) -> dict[str, Tensor]:
        """`ce`: mean cross-entropy; `bump`: λ times the mean bump of the responses, before the last stage."""
        if self._settles:
            with _stage(self.front_end, quantize=True, frozen=True):
                terms = self.settle(x, y, key)
            # Of value and gradient 0: distributed training waits for a gradient of every parameter.
            return {**terms, "ce": terms["ce"] + 0.0 * self.front_end.conv.weight.sum()}
        name, front_end = polarizing_front_end(self.network)
        with _stage(front_end, quantize=False, frozen=False), Taps(self.network, [name]) as taps:
            logits = self.network(x)
        centres, width = self._bumps
        bump = mean_bump(taps[name].output, centres, width)
        return {"ce": F.cross_entropy(logits, y), "bump": self.lam * bump}

    def settle(self, x: Tensor, y: Tensor, key: Tensor) -> dict[str, Tensor]:
        """`ce`: terms of the last stage, where the front end is frozen and quantises; a subclass may add to them.

        Args:
            x: As for `loss`.
            y: As for `loss`.
            key: As for `loss`.
        """
        return {"ce": F.cross_entropy(self.network(x), y)}

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Takes the gradients of a frozen front end away: one of zeros would let Adam's momentum move it on."""
        if self._settles:
            self.front_end.zero_grad(set_to_none=True)

    def on_train_epoch_end(self) -> None:
        """Logs the means of the terms, the stage from 1, and λ."""
        super().on_train_epoch_end()
        self.log_dict({"train/stage": float(self.place.stage + 1), "train/lambda": self.lam}, sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the stage, for a resumed run to compare with its own."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["stage"] = self.place.stage

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the stage of the checkpoint."""
        super().on_load_checkpoint(checkpoint)
        self._restored = int(checkpoint.get("stage", 0))

    @property
    def _settles(self) -> bool:
        return self.place.stage == self.stages - 1

    @property
    def _bumps(self) -> tuple[Sequence[float] | Tensor, float]:
        """Centres and width of the current stage's bumps."""
        stage = self.place.stage
        if stage == 0:
            return [0.0], self.sigma1
        rounds: list[Sequence[float] | Tensor] = [*self.coarser, self.front_end.quantizer.thresholds]
        return rounds[stage - 1], self.sigma2


@contextmanager
def _stage(front_end: PolarizingFrontEnd, *, quantize: bool, frozen: bool) -> Iterator[None]:
    """The front end as a stage has it; afterwards as it was."""
    quantized, trained = front_end.quantize, front_end.conv.weight.requires_grad
    front_end.quantize = quantize
    front_end.requires_grad_(trained and not frozen)
    try:
        yield
    finally:
        front_end.quantize = quantized
        front_end.requires_grad_(trained)
