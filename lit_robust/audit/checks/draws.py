"""Does the accuracy of a random network settle with the draws that an attack averages over?"""

from __future__ import annotations

from collections.abc import Mapping

from lit_robust.attacks import Attack
from lit_robust.audit.checks.base import Check, percent
from lit_robust.audit.finding import Finding, Picture, judged
from lit_robust.audit.plan import PGD_ROW, Plan
from lit_robust.audit.rows import Rows
from lit_robust.audit.thresholds import NEVER


def _counts(plan: Plan) -> tuple[int, int, int]:
    draws = plan.effort.draws
    return max(1, draws // 4), draws, 4 * draws


class DrawsSettle(Check):
    """PGD through the mean of a quarter of the draws of the audit, of these, and of four times as many."""

    name = "EOT draws"
    why = (
        "The gradient of one draw of a random network says little about the next one; a defense that is attacked with "
        "too few draws looks robust (Athalye et al., 2018, section 4.2; Tramer et al., 2020)."
    )
    next = "Attack through more draws (EOT), until twice as many change the accuracy by less than 1 %."

    def attacks(self, plan: Plan) -> Mapping[str, Attack]:
        """PGD with each number of draws; nothing if the network does not draw."""
        if not plan.random:
            return {}
        few, _, many = _counts(plan)
        return {"few draws": plan.pgd(draws=few), PGD_ROW: plan.pgd(), "many draws": plan.pgd(draws=many)}

    def judge(self, rows: Rows, plan: Plan) -> Finding:
        """Fails if more draws than the audit's break many images."""
        if not plan.random:
            return self.skipped("the network is deterministic")
        counts = _counts(plan)
        gained = rows.only(["many draws"], [PGD_ROW])
        accuracy = [rows.accuracy(name) for name in ("few draws", PGD_ROW, "many draws")]
        return self.finding(
            judged(gained, NEVER),
            f"{counts[2]} draws cost {percent(gained)} more than {counts[1]}",
            gained,
            Picture(x=[float(c) for c in counts], series={"PGD": accuracy}, x_label="draws", y_label="accuracy"),
        )
