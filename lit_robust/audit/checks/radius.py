"""Does accuracy fall as the ball grows?"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from itertools import pairwise

from lit_robust.attacks import Attack
from lit_robust.audit.checks.base import Check, percent
from lit_robust.audit.finding import Finding, Picture, judged
from lit_robust.audit.plan import PGD_ROW, Plan
from lit_robust.audit.rows import Rows
from lit_robust.audit.thresholds import NEVER, NO_FALL, ROUNDING
from lit_robust.evaluation.verdict import CLEAN

_TIMES = {"eps/2": Fraction(1, 2), PGD_ROW: Fraction(1), "2 eps": Fraction(2), "4 eps": Fraction(4)}


class AccuracyOverRadius(Check):
    """PGD at half the radius, at the radius, and at twice and four times it, each on all images."""

    name = "accuracy over eps"
    why = (
        "A larger ball holds every adversarial of a smaller one, so accuracy must not rise with eps, and if it does "
        "not fall at all the attack finds nothing (Carlini et al., 2019; Athalye et al., 2018, section 3.1)."
    )
    next = "Take more steps and restarts, or an attack that sets its own step size (APGD); look at the loss landscape."

    def attacks(self, plan: Plan) -> Mapping[str, Attack]:
        """PGD at each radius."""
        return {name: plan.pgd(threat=plan.ball(times)) for name, times in _TIMES.items()}

    def judge(self, rows: Rows, plan: Plan) -> Finding:
        """Fails if accuracy rises from one radius to the next; warns if it does not fall, and images are left."""
        accuracy = [rows.accuracy(name) for name in _TIMES]
        rise = max(0.0, *(later - earlier for earlier, later in pairwise(accuracy)))
        verdict = judged(rise, NEVER)
        fall = accuracy[0] - accuracy[-1]
        flat = fall <= NO_FALL + ROUNDING and accuracy[-1] > NEVER.fail + ROUNDING
        if verdict == "pass" and flat:
            verdict = "warn"
        radii = [float(plan.ball(times).exact) for times in _TIMES.values()]
        figure = f"falls from {percent(accuracy[0])} to {percent(accuracy[-1])}" if not flat else "does not fall"
        if rise > 0:
            figure += f", rises by up to {percent(rise)} between"
        return self.finding(
            verdict,
            figure,
            rise,
            Picture(
                x=[0.0, *radii],
                series={"PGD": [rows.accuracy(CLEAN), *accuracy]},
                x_label="eps",
                y_label="accuracy",
            ),
        )
