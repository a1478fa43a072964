"""Learning-rate schedules in fractions of the run, so that a shorter run keeps the shape of the published one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lit_robust.errors import UserError


class RunSchedule(LRScheduler):
    """A schedule stepped every batch that knows how far the run is.

    Args:
        optimizer: Its learning rates are the peaks that the schedule scales.

    Attributes:
        total_steps: Optimizer steps of the whole run; the regime sets it before training starts.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.total_steps: float = float("inf")
        super().__init__(optimizer)

    @property
    def progress(self) -> float:
        """Fraction of the run that lies behind, in [0, 1]."""
        return min(1.0, self.last_epoch / self.total_steps)

    def factor(self) -> float:
        """What the peak learning rates are multiplied by now."""
        raise NotImplementedError

    def get_lr(self) -> list[float]:  # type: ignore[override]
        """Learning rates of the parameter groups now."""
        return [float(peak) * self.factor() for peak in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """The state without `total_steps`, so that a resumed run may be longer."""
        return {key: value for key, value in super().state_dict().items() if key != "total_steps"}


class StepDecay(RunSchedule):
    """Multiplies the learning rate by `gamma` at fractions of the run.

    Args:
        optimizer: As for `RunSchedule`.
        milestones: Fractions of the run in (0, 1), ascending; 0.75 of 100 epochs is the start of the 76th.
        gamma: Factor at each.

    Raises:
        UserError: If the milestones are not ascending within (0, 1).
    """

    def __init__(self, optimizer: Optimizer, milestones: Sequence[float] = (0.5, 0.75), gamma: float = 0.1) -> None:
        if list(milestones) != sorted(milestones) or not all(0 < m < 1 for m in milestones):
            raise UserError(f"expected milestones as ascending fractions of the run in (0, 1), got {list(milestones)}")
        self.milestones = list(milestones)
        self.gamma = gamma
        super().__init__(optimizer)

    def factor(self) -> float:
        """`gamma` to the number of milestones passed."""
        # The tolerance keeps a milestone such as 0.9375 on its batch when progress is rounded.
        return float(self.gamma ** bisect_right(self.milestones, self.progress + 1e-9))


class Triangular(RunSchedule):
    """Linear from 0 to the peak at half of the cycle and back, the momentum dipping meanwhile (Smith, 2017).

    Args:
        optimizer: As for `RunSchedule`.
        momentum_dip: How far the momentum is lowered at the peak, as PyTorch's cyclic schedule does by default.
        cycle: Length of the cycle, in runs. 1.4 is the schedule of 70 epochs in a run of 50, which then ends on the way
            down.

    Raises:
        UserError: If the cycle is shorter than the run.
    """

    def __init__(self, optimizer: Optimizer, momentum_dip: float = 0.1, cycle: float = 1.0) -> None:
        if not cycle >= 1.0:
            raise UserError(f"expected a cycle of at least 1, the length of the run, got {cycle}")
        self.momentum_dip = momentum_dip
        self.cycle = cycle
        self.momenta = [group.get("momentum", 0.0) for group in optimizer.param_groups]
        super().__init__(optimizer)

    def factor(self) -> float:
        """Height of the triangle."""
        return 1.0 - abs(2.0 * self.progress / self.cycle - 1.0)

    def get_lr(self) -> list[float]:  # type: ignore[override]
        """Learning rates now; sets the momenta, which PyTorch's schedulers have no hook for."""
        for group, momentum in zip(self.optimizer.param_groups, self.momenta, strict=True):
            if momentum:
                group["momentum"] = momentum - self.momentum_dip * self.factor()
        return super().get_lr()
