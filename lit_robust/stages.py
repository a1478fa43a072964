"""Equal stages of a run, as a pure function of the epoch, so that a run resumed in the middle is in the same stage."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass


@dataclass(frozen=True)
class StagePlace:
    """Where in its stage an epoch is.

    Attributes:
        stage: Number of the stage, from 0.
        epoch: Epochs of the stage that lie behind.
        epochs: Epochs of the stage.
    """

    stage: int
    epoch: int
    epochs: int

    @property
    def ramp(self) -> float:
        """From 0 in the stage's first epoch linearly to 1 in its last; 1 in a stage of one epoch."""
        return self.epoch / (self.epochs - 1) if self.epochs > 1 else 1.0


def stage_starts(epochs: int, stages: int) -> list[int]:
    """First epoch of each stage, and the number of epochs at the end: [0, 20, 40, 60] for 60 epochs and 3 stages.

    Where epochs do not divide, lengths differ by one; with fewer epochs than stages the last stages are empty.

    Args:
        epochs: Epochs of the run, at least 1.
        stages: Stages, at least 1.
    """
    return [-(-number * epochs // stages) for number in range(stages + 1)]


def stage_place(epoch: int, epochs: int, stages: int) -> StagePlace:
    """The stage of an epoch and the place in it; what lies behind the run counts as its last epoch.

    Args:
        epoch: Number of the epoch, from 0.
        epochs: As for `stage_starts`.
        stages: As for `stage_starts`.
    """
    starts, epoch = stage_starts(epochs, stages), min(epoch, epochs - 1)
    stage = bisect_right(starts, epoch) - 1
    return StagePlace(stage, epoch - starts[stage], starts[stage + 1] - starts[stage])
