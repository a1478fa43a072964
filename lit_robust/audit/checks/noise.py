"""Does random noise break what PGD cannot?"""

from __future__ import annotations

from collections.abc import Mapping

from lit_robust.attacks import Attack
from lit_robust.audit.checks.base import Check, as_bars, percent
from lit_robust.audit.finding import Finding, judged
from lit_robust.audit.plan import PGD_ROW, Plan
from lit_robust.audit.rows import Rows
from lit_robust.audit.thresholds import NEVER

_ROW = "random points"


class NoiseOnly(Check):
    """The worst of some random points in the ball against PGD."""

    name = "random noise"
    why = (
        "A search that follows the gradient has to be stronger than one that guesses (Athalye et al., 2018, section "
        "3.1: random sampling finds adversarial examples; Carlini et al., 2019)."
    )
    next = "PGD does not follow the loss here: look at the gradients, the step size and the loss landscape."

    def attacks(self, plan: Plan) -> Mapping[str, Attack]:
        """Random points, and PGD."""
        return {PGD_ROW: plan.pgd(), _ROW: plan.random_points()}

    def judge(self, rows: Rows, plan: Plan) -> Finding:
        """Fails if many images are broken by noise and not by PGD."""
        only = rows.only([_ROW], [PGD_ROW])
        groups = {"PGD": [PGD_ROW], f"{plan.effort.points} points": [_ROW]}
        return self.finding(judged(only, NEVER), f"{percent(only)} broken by it alone", only, as_bars(rows, groups))
