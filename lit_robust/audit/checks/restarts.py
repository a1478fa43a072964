"""Does the accuracy settle with the number of restarts?"""

from __future__ import annotations

from collections.abc import Mapping

from lit_robust.attacks import Attack
from lit_robust.audit.checks.base import Check, percent
from lit_robust.audit.finding import Finding, Picture, judged
from lit_robust.audit.plan import Plan
from lit_robust.audit.rows import Rows
from lit_robust.audit.thresholds import NEVER


class RestartsSettle(Check):
    """PGD from several random starts: what the second half of them adds."""

    name = "restarts"
    why = (
        "If further starts keep breaking images, the loss has many local maxima and the figure depends on how often "
        "one tried (Carlini et al., 2019; Mosbach et al., 2018)."
    )
    next = (
        "Quote the worst case over more restarts (Restarts), or APGD, until twice as many change it by less than 1 %."
    )

    def attacks(self, plan: Plan) -> Mapping[str, Attack]:
        """Each start on its own."""
        return plan.restarts()

    def judge(self, rows: Rows, plan: Plan) -> Finding:
        """Fails if the second half of the starts breaks much that the first does not."""
        starts = list(plan.restarts())
        half = len(starts) // 2
        gained = rows.only(starts[half:], starts[:half])
        accuracy = [rows.accuracy(*starts[: k + 1]) for k in range(len(starts))]
        return self.finding(
            judged(gained, NEVER),
            f"{len(starts)} starts break {percent(gained)} more than {half}",
            gained,
            Picture(
                x=[float(k + 1) for k in range(len(starts))],
                series={"PGD": accuracy},
                x_label="starts",
                y_label="accuracy",
            ),
        )
