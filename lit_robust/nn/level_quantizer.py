"""A quantiser of few levels, with the backward passes that an attack on it may take."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor

from lit_robust.backward import SurrogateLayer, replace_gradient
from lit_robust.errors import UserError


def checked_thresholds(thresholds: float | Sequence[float]) -> list[float]:
    """Thresholds in ascending order: −c and c of the ternary quantiser for a number c, else the numbers given.

    Raises:
        UserError: If c is not in (0, 1), or numbers are not ascending within (−1, 1), or there is none.
    """
    if isinstance(thresholds, int | float):
        if not 0 < thresholds < 1:
            raise UserError(
                f"expected the threshold c of the ternary quantiser in (0, 1), got {thresholds}: normalised "
                "activations are in [-1, 1]"
            )
        return [-float(thresholds), float(thresholds)]
    values = [float(threshold) for threshold in thresholds]
    ascending = all(one < other for one, other in pairwise(values))
    if not values or not ascending or not all(-1 < value < 1 for value in values):
        raise UserError(
            "expected thresholds in ascending order within (-1, 1), such as [-0.5, 0.5], or one number c for -c and "
            f"c, got {values}"
        )
    return values


class LevelQuantizer(SurrogateLayer):
    """½ Σ sgn(z − t) over the thresholds t, with one level more than there are thresholds (dissertation, Eq. 4.2).

    Two thresholds ±c give the ternary quantiser with the levels −1, 0 and 1 (Eq. 4.3). A z that equals a threshold is
    halfway between two levels, since sgn(0) = 0.

    Backward passes: `identity`, the straight-through estimator that the published attacks use; `smooth(s)`, the
    derivative of ½ Σ tanh(s (z − t)); `exact`, which is zero.

    Args:
        thresholds: The thresholds in (−1, 1), ascending; a number c for −c and c.
        backward: As for `SurrogateLayer`.

    Attributes:
        thresholds: The thresholds, (L − 1,). They are a setting, not a part of a checkpoint.

    Raises:
        UserError: If the thresholds are not ascending within (−1, 1), or there is no such backward pass.
    """

    offered = ("identity", "smooth(4)", "smooth(8)", "smooth(16)", "exact")
    thresholds: Tensor

    def __init__(self, thresholds: float | Sequence[float], *, backward: str | None = None) -> None:
        super().__init__(backward=backward)
        values = torch.tensor(checked_thresholds(thresholds), dtype=torch.float32)
        # Not persistent, or a checkpoint would override the threshold that a config says.
        self.register_buffer("thresholds", values, persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        """Levels of activations, of the same shape."""
        if self.kind == "exact":
            return self._levels(z)  # the derivative of sgn is zero, and not missing
        with torch.no_grad():
            hard = self._levels(z)
        return replace_gradient(hard, self._smooth(z) if self.kind == "smooth" else z)

    def _levels(self, z: Tensor) -> Tensor:
        first, *others = self.thresholds
        total = (z - first).sign_()
        for threshold in others:
            total += (z - threshold).sign_()
        return cast(Tensor, total.mul_(0.5))

    def _smooth(self, z: Tensor) -> Tensor:
        steps = [torch.tanh(self.number * (z - threshold)) for threshold in self.thresholds]
        return 0.5 * sum(steps[1:], start=steps[0])

    def extra_repr(self) -> str:
        """The settings, for `print(model)`."""
        return f"thresholds={[round(t, 6) for t in self.thresholds.tolist()]}, backward={self.backward_pass!r}"
