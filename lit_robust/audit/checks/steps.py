"""Does accuracy fall with the number of steps, and settle?"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from lit_robust.attacks import Attack
from lit_robust.audit.checks.base import Check, percent
from lit_robust.audit.finding import Finding, Picture, judged, worst
from lit_robust.audit.plan import Plan
from lit_robust.audit.rows import Rows
from lit_robust.audit.thresholds import NEVER


class AccuracyOverSteps(Check):
    """PGD with one step, a quarter of the steps of the audit, these, and 2.5 times as many."""

    name = "accuracy over steps"
    why = (
        "One step must not beat many, more must not help the defender, and once they no longer help the attacker the "
        "search has converged (Athalye et al., 2018, section 3.1; Carlini et al., 2019; Tramer et al., 2020)."
    )
    next = "Quote the attack with more steps, until twice as many change the accuracy by less than 1 %."

    def attacks(self, plan: Plan) -> Mapping[str, Attack]:
        """PGD with each number of steps."""
        return plan.by_steps()

    def judge(self, rows: Rows, plan: Plan) -> Finding:
        """Fails if accuracy rises with steps, or still falls much at the end."""
        names, counts = list(plan.by_steps()), plan.step_counts
        accuracy = [rows.accuracy(name) for name in names]
        rise = max(0.0, *(later - earlier for earlier, later in pairwise(accuracy)))
        gained = rows.only(names[-1:], names[:-1])
        figure = f"{counts[-1]} steps break {percent(gained)} more than {counts[-2]}"
        if rise > 0:
            figure += f"; accuracy rises by up to {percent(rise)}"
        return self.finding(
            worst([judged(rise, NEVER), judged(gained, NEVER)]),
            figure,
            max(rise, gained),
            Picture(x=[float(c) for c in counts], series={"PGD": accuracy}, x_label="steps", y_label="accuracy"),
        )
