"""Training of a polarizing front end, with a classifier behind it that learns what can be certified."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lit_robust.regimes.interval import IntervalLoss
from lit_robust.regimes.polarizing import Polarizing
from lit_robust.threat import ThreatModel


class IntervalPolarizing(Polarizing):
    """`Polarizing` whose last stage is interval training: of the classifier, on the hull of the reachable codes.

    Args:
        network: As for `Polarizing`: a `Pipeline` of the front end and a classifier that has interval bounds.
        threat: As for `IntervalLoss`.
        kappa: As for `IntervalLoss`.
        start: As for `IntervalLoss`, as a fraction of the last stage.
        end: As for `IntervalLoss`, as a fraction of the last stage.
        **options: The other arguments of `Polarizing`; a config may name them.

    Raises:
        UserError: If a number is out of its range.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        threat: ThreatModel,
        kappa: float = 0.5,
        start: float = 0.05,
        end: float = 0.5,
        **options: Any,  # noqa: ANN401 - passed on
    ) -> None:
        super().__init__(network, **options)
        self.interval = IntervalLoss(threat=threat, kappa=kappa, start=start, end=end)
        self._steps = 1.0  # of an epoch

    def check(self, data: Any) -> None:  # noqa: ANN401 - as for `RobustClassifier`
        """Refuses a network without interval bounds, before any work, and a radius that holds every image."""
        super().check(data)
        self.interval.check(self.network, data.image_shape)

    def on_train_start(self) -> None:
        """Learns how long an epoch is."""
        super().on_train_start()
        self._steps = self.trainer.estimated_stepping_batches / max(1, int(self.trainer.max_epochs or 1))

    def settle(self, x: Tensor, y: Tensor, key: Tensor) -> dict[str, Tensor]:
        """`ce` and `worst`; see `IntervalLoss.terms`."""
        begun = min(1.0, max(0.0, self.global_step / self._steps - self.current_epoch))  # of the current epoch
        progress = (self.place.epoch + begun) / self.place.epochs
        return self.interval.terms(self.network, x, y, progress)
