"""Are there gradients to follow?"""

from __future__ import annotations

from typing import Any

from lit_robust.audit.checks.base import Check, percent
from lit_robust.audit.finding import Finding, Picture, judged, worst
from lit_robust.audit.gradient import loss_gradient
from lit_robust.audit.plan import Plan
from lit_robust.audit.rows import Rows
from lit_robust.audit.thresholds import NON_FINITE, ZERO_ENTRIES, ZERO_GRADIENT
from lit_robust.evaluation.full_block import FullBlock

_ZERO, _NON_FINITE, _ENTRIES = "zero gradient", "non-finite gradient", "zero entries"


class GradientsExist(Check):
    """The gradient of the cross-entropy, at the image and at the random point where PGD starts.

    A gradient is zero if it is exactly 0 at both.
    """

    name = "gradients"
    why = (
        "Where the gradient is 0 or not a number, PGD stays where it started and the model looks robust: saturated "
        "logits, rounding, thresholds (Athalye et al., 2018, section 3.1; Carlini and Wagner, 2017)."
    )
    next = (
        "For zero gradients climb the logits instead of the cross-entropy (dlr, negative_margin) or replace the "
        "backward pass of the layer that ends them (--backward, Adaptive); for others look for a division or root at 0."
    )

    def measure(self, block: FullBlock, plan: Plan) -> dict[str, Any]:
        """Whether each gradient is zero, whether it has entries that are no numbers, and its share of zeros."""
        at = [
            loss_gradient(block, plan, x).flatten(1) for x in (block.x, plan.threat.random_point(block.x, block.noise))
        ]
        return {
            _ZERO: (at[0] == 0).all(1) & (at[1] == 0).all(1),
            _NON_FINITE: ~(at[0].isfinite().all(1) & at[1].isfinite().all(1)),
            _ENTRIES: ((at[0] == 0).double().mean(1) + (at[1] == 0).double().mean(1)) / 2,
        }

    def judge(self, rows: Rows, plan: Plan) -> Finding:
        """Fails if many gradients are zero, or some are no numbers; warns if most entries are zero."""
        zero, broken, entries = (float(rows.column(name).mean()) for name in (_ZERO, _NON_FINITE, _ENTRIES))
        verdicts = judged(zero, ZERO_GRADIENT), judged(broken, NON_FINITE), judged(entries, ZERO_ENTRIES)
        return self.finding(
            worst(verdicts),
            f"{percent(zero)} zero, {percent(broken)} not finite; {percent(entries)} of all entries are zero",
            max(zero, broken),
            Picture(
                x=["zero", "not finite", "zero entries"],
                series={"": [zero, broken, entries]},
                x_label="",
                y_label="share",
            ),
        )
