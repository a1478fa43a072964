"""Does an attack without gradients break what gradient attacks cannot?"""

from __future__ import annotations

from collections.abc import Mapping

from lit_robust.attacks import Attack
from lit_robust.audit.checks.base import Check, as_bars, percent
from lit_robust.audit.finding import Finding, judged
from lit_robust.audit.plan import Plan
from lit_robust.audit.rows import Rows
from lit_robust.audit.thresholds import NEVER

_ROW = "square"


class BlackBoxOnly(Check):
    """The Square Attack against all gradient attacks of the audit together."""

    name = "black box"
    why = (
        "An attack that sees only scores knows less than one that sees gradients. Where it wins, gradients mislead "
        "(Athalye et al., 2018, section 3.1; Carlini et al., 2019)."
    )
    next = (
        "Quote the worst case with the Square Attack (AutoAttack), and find the layer that hides the gradient: give it "
        "another backward pass (--backward, Adaptive)."
    )

    def attacks(self, plan: Plan) -> Mapping[str, Attack]:
        """The Square Attack and all gradient attacks."""
        return {**plan.white_box(), _ROW: plan.square()}

    def judge(self, rows: Rows, plan: Plan) -> Finding:
        """Fails if many images are broken by the Square Attack alone."""
        white = list(plan.white_box())
        only = rows.only([_ROW], white)
        groups = {"gradients": white, "Square": [_ROW], "both": [*white, _ROW]}
        return self.finding(judged(only, NEVER), f"{percent(only)} broken by it alone", only, as_bars(rows, groups))
