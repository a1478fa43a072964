"""Does the gradient point where the loss rises?"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lit_robust.audit.checks.base import Check, percent
from lit_robust.audit.finding import Finding, Picture, judged
from lit_robust.audit.gradient import loss_gradient
from lit_robust.audit.plan import Plan
from lit_robust.audit.rows import Rows
from lit_robust.audit.thresholds import LANDSCAPE
from lit_robust.evaluation.full_block import FullBlock
from lit_robust.losses import negative_margin
from lit_robust.sampling import CHECK

_POINTS = 8  # along each direction
_GRADIENT, _RANDOM = "rises along the gradient", "rises along a random direction"


class LossLandscape(Check):
    """The loss on the way along the steepest direction of the gradient, and along a random one, up to the radius.

    The loss is the negative margin, which does not saturate; the direction is the gradient of the cross-entropy, which
    attacks follow. Compared are the highest points on both ways.
    """

    name = "loss landscape"
    why = (
        "If the direction of the gradient raises the loss no more than a random one, the gradient is noise: shattered, "
        "or that of another function (Athalye et al., 2018, section 3.1; Tramer et al., 2018)."
    )
    next = "Smooth the gradient (SmoothedPGD, EOT), replace backward passes (--backward), or attack without gradients."

    def measure(self, block: FullBlock, plan: Plan) -> dict[str, Any]:
        """How far the loss rises at each of some points along both directions, (N, 8) each."""
        noise = block.noise.normal("landscape", block.x.shape[1:], dtype=block.x.dtype)
        gradient = loss_gradient(block, plan, block.x).nan_to_num(0.0, 0.0, 0.0)
        return {_GRADIENT: _rises(block, plan, gradient), _RANDOM: _rises(block, plan, noise)}

    def judge(self, rows: Rows, plan: Plan) -> Finding:
        """Fails if the gradient loses to a random direction for many images."""
        gradient, random = (np.stack(list(rows.column(name))) for name in (_GRADIENT, _RANDOM))
        lost = float((gradient.max(1) < random.max(1)).mean())
        times = np.arange(1, _POINTS + 1) / _POINTS
        return self.finding(
            judged(lost, LANDSCAPE),
            f"for {percent(lost)} a random direction raises the loss more",
            lost,
            Picture(
                x=[0.0, *(float(t * plan.threat.radius) for t in times)],
                series={
                    name.removeprefix("rises "): [0.0, *map(float, rises.mean(0))]
                    for name, rises in ((_GRADIENT, gradient), (_RANDOM, random))
                },
                x_label="distance",
                y_label="mean rise of the loss",
            ),
        )


def _rises(block: FullBlock, plan: Plan, direction: Tensor) -> Tensor:
    """Negative margin at points along a direction minus that at the image, (N, points)."""
    unit = plan.threat.ascent(direction, block.x)
    heights = []
    for point in range(_POINTS + 1):
        moved = plan.threat.project(block.x + unit * (plan.threat.radius * point / _POINTS), block.x)
        heights.append(negative_margin(block.logits(moved, CHECK), block.y).double())
    rises: Tensor = torch.stack([height - heights[0] for height in heights[1:]], dim=1)
    return rises
