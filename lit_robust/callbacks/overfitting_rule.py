"""When a network counts as catastrophically overfitted to its training attack: the rule, and the best seen so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["good", "unsure", "collapsed"]

# In the published collapses PGD accuracy goes from tens of percent to almost 0 within an epoch (Wong et al., 2020,
# section 5.4), while robust overfitting costs a fifth of it over a hundred epochs (Rice et al., 2020, Table 1).
HALF = 0.5

# Between an accuracy under a training attack and under the probe, or between the shares of their bests that are left: a
# diverged network loses both alike, and on an honest one a single step finds most of what ten steps find.
APART = 0.25

# Three standard errors of a small accuracy on some hundred images, so that noise in the first epochs, where the best is
# a few percent, raises no alarm.
LEAST = 0.1

GOOD = (
    0.75  # of the best: what lies between this and a half may be the beginning of a collapse, and is not gone back to
)


@dataclass
class BestSoFar:
    """The highest accuracies on the probe's images so far, all in [0, 1].

    Attributes:
        probe: Under the probe.
        training: Under the training attack.
        epoch: Epochs that lay behind when the probe's was reached.
        good: Epochs that lay behind at the last good measurement; 0 before the first.
    """

    probe: float = 0.0
    training: float = 0.0
    epoch: int = 0
    good: int = 0

    def judge(self, probe: float, training: float, *, alike: bool, chance: float) -> State:
        """What a measurement says of the network.

        `collapsed` is one of two things. It fell: the accuracy under the probe is below half of its best and 10 points
        below it at least, and the share of the best that is left under the training attack is larger by 0.25 at least.
        Or it never rose: the accuracy under the probe is below half of that under the training attack and 25 points
        below it at least. `good`: three quarters of the best are left and half of that under the training
        attack, and guessing would be right 10 points less often at least. `unsure`: all else.

        Args:
            probe: Accuracy under the probe.
            training: Accuracy under the training attack.
            alike: Whether both attacks have one threat model; the two accuracies are compared only then.
            chance: Accuracy of a network that guesses.
        """
        kept = probe / self.probe if self.probe else 1.0
        kept_training = training / self.training if self.training else 1.0
        fell = kept < HALF and self.probe - probe >= LEAST and kept_training - kept >= APART
        below = alike and probe < HALF * training
        if fell or (below and training - probe >= APART):
            return "collapsed"
        return "good" if kept >= GOOD and not below and probe >= chance + LEAST else "unsure"

    def add(self, probe: float, training: float, epoch: int) -> None:
        """Takes a measurement into account.

        Args:
            probe: As for `judge`.
            training: As for `judge`.
            epoch: Epochs that lie behind.
        """
        if probe > self.probe:
            self.probe, self.epoch = probe, epoch
        self.training = max(self.training, training)
