"""Interval training: the loss counts the worst logits that interval bounds allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_robust.errors import UserError
from lit_robust.evaluation.certificate import certifiable
from lit_robust.modes import network_mode
from lit_robust.nn.layer_costs import LayerCost
from lit_robust.regimes.base import OptimizerCallable, RobustClassifier, SchedulerCallable
from lit_robust.threat import ThreatModel


@dataclass(frozen=True, kw_only=True)
class IntervalLoss:
    """κ times the cross-entropy of images and 1 − κ times that of their worst-case logits (Gowal et al., 2018, Eq. 12).

    Over a part of the run the radius grows linearly from 0 to that of the threat model, and κ falls from 1.

    Args:
        threat: What may be changed. A radius above the one to be certified often certifies more there.
        kappa: κ at the end, in [0, 1].
        start: Fraction of the run after which the radius grows; before, only images count.
        end: Fraction of the run at which it is full.

    Raises:
        UserError: If a number is out of its range, or the threat model has no radius.
    """

    threat: ThreatModel
    kappa: float = 0.5
    start: float = 0.05
    end: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.kappa <= 1:
            raise UserError(f"expected kappa of interval training in [0, 1], got {self.kappa}")
        if not 0 <= self.start <= self.end <= 1:
            raise UserError(
                f"expected start and end of interval training as fractions of the run, 0 ≤ start ≤ end ≤ 1, got "
                f"{self.start} and {self.end}"
            )
        self.threat.exact  # noqa: B018 - refuses any distance

    def at(self, progress: float) -> tuple[ThreatModel, float]:
        """The threat model and κ at a fraction of the run."""
        ramp = 1.0 if progress >= self.end else max(0.0, (progress - self.start) / max(self.end - self.start, 1e-12))
        threat = self.threat if ramp == 1.0 else ThreatModel(float(self.threat.exact) * ramp, self.threat.norm)
        return threat, 1.0 - ramp * (1.0 - self.kappa)

    def check(self, network: nn.Module, image_shape: Sequence[int]) -> None:
        """Refuses a network without interval bounds, by trying it on an image, and a radius that holds every image.

        Args:
            network: As for `terms`; its mode stays as it is.
            image_shape: (C, H, W) of the images.

        Raises:
            UserError: If an operation has no bounds, or the threat model is L0 or larger than the pixel box.
        """
        self.threat.check_shape(tuple(image_shape))
        parameter = next(network.parameters(), torch.empty(0))
        x = torch.full((1, *image_shape), 0.5, device=parameter.device, dtype=parameter.dtype)
        with torch.no_grad(), network_mode(network, train=False):
            certifiable(network).bound(x, torch.zeros(1, dtype=torch.int64, device=x.device), self.threat)

    def terms(self, network: nn.Module, x: Tensor, y: Tensor, progress: float) -> dict[str, Tensor]:
        """`ce` of images and `worst` of bounds, whose sum is to be minimised.

        Bounds are those of the network in eval mode, where a polarizing front end quantises and batch normalisation
        has its running statistics.

        Args:
            network: A network that can be certified; see `lit_robust.evaluation.certificate`.
            x: Images in [0, 1], (N, C, H, W).
            y: Labels, (N,).
            progress: Fraction of the run that lies behind, in [0, 1].

        Raises:
            UserError: If the network has an operation without interval bounds.
        """
        threat, kappa = self.at(progress)
        ce = kappa * F.cross_entropy(network(x), y)
        if kappa == 1.0:
            return {"ce": ce, "worst": torch.zeros_like(ce)}
        with network_mode(network, train=False):
            _, least = certifiable(network).bound(x, y, threat)
        return {"ce": ce, "worst": (1.0 - kappa) * F.cross_entropy(-least, y)}


class IntervalTraining(RobustClassifier):
    """Training for certificates by interval bounds (Gowal et al., 2018), of any network that has them.

    Behind a polarizing front end the bounds are those of the hull of the reachable codes. Where its filters train too,
    the ends of the code have the identity's gradient in those of z.

    Args:
        network: As for `RobustClassifier`; one that can be certified.
        threat: As for `IntervalLoss`.
        kappa: As for `IntervalLoss`.
        start: As for `IntervalLoss`.
        end: As for `IntervalLoss`.
        optimizer: As for `RobustClassifier`.
        lr_scheduler: As for `RobustClassifier`.
        layer_costs: As for `RobustClassifier`.

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
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: SchedulerCallable | None = None,
        layer_costs: Sequence[LayerCost] = (),
    ) -> None:
        super().__init__(network, optimizer=optimizer, lr_scheduler=lr_scheduler, layer_costs=layer_costs)
        self.interval = IntervalLoss(threat=threat, kappa=kappa, start=start, end=end)
        self._steps = 0

    @property
    def attack_summary(self) -> str:
        """The threat model that it trains against."""
        return f"intervals {self.interval.threat}"

    def check(self, data: Any) -> None:  # noqa: ANN401 - as for `RobustClassifier`
        """Refuses a network without interval bounds, before any work, and a radius that holds every image."""
        super().check(data)
        self.interval.check(self.network, data.image_shape)

    def on_train_start(self) -> None:
        """Learns how long the run is."""
        super().on_train_start()
        self._steps = int(self.trainer.estimated_stepping_batches)

    def loss(self, x: Tensor, y: Tensor, key: Tensor) -> dict[str, Tensor]:
        """`ce` and `worst`; see `IntervalLoss.terms`."""
        return self.interval.terms(self.network, x, y, min(1.0, self.global_step / max(1, self._steps)))
