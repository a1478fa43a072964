"""Does an attack that may answer with any image break every image?"""

from __future__ import annotations

from collections.abc import Mapping

from lit_robust.attacks import PGD, Attack
from lit_robust.audit.checks.base import Check, as_bars, percent
from lit_robust.audit.finding import Finding, judged
from lit_robust.audit.plan import Plan
from lit_robust.audit.rows import Rows
from lit_robust.audit.thresholds import UNBOUNDED
from lit_robust.evaluation.verdict import CLEAN

_ROW = "unbounded"


class UnboundedAttack(Check):
    """PGD from the clean image in a ball that holds every image.

    It starts at the image, since a random start in such a ball is a random image, which hardly any model gets right.
    """

    name = "unbounded attack"
    why = (
        "An adversary that may answer with any image can answer with one of another class, so the accuracy has to fall "
        "to 0; if it does not, the attack fails and not the adversary (Carlini et al., 2019)."
    )
    next = (
        "Do not quote gradient attacks of this kind. Give layers without a useful gradient another backward pass "
        "(--backward, Adaptive), and climb a loss that does not saturate (dlr, negative_margin)."
    )

    def attacks(self, plan: Plan) -> Mapping[str, Attack]:
        """PGD without a limit, in steps of a twentieth of the way."""
        attack = PGD(threat=plan.largest, steps=plan.effort.steps, step_size="eps/20", start="clean")
        return {_ROW: plan.seen(attack)}

    def judge(self, rows: Rows, plan: Plan) -> Finding:
        """Fails if images are left."""
        left = rows.accuracy(_ROW)
        groups = {"clean": [CLEAN], "unbounded": [_ROW]}
        return self.finding(judged(left, UNBOUNDED), f"{percent(left)} are left", left, as_bars(rows, groups))
