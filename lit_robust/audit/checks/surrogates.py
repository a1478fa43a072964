"""Does another backward pass that the network offers break what its own cannot?"""

from __future__ import annotations

from collections.abc import Mapping

from lit_robust.attacks import Attack
from lit_robust.audit.checks.base import Check, as_bars, percent
from lit_robust.audit.finding import Finding, judged
from lit_robust.audit.plan import Plan
from lit_robust.audit.rows import Rows
from lit_robust.audit.thresholds import NEVER


class SurrogateGrid(Check):
    """PGD through every combination of backward passes that the network's layers offer, against the audited one."""

    name = "surrogate grid"
    why = (
        "A layer without a useful gradient is attacked through a replacement, and a defense is only as good as the "
        "worst of them (BPDA: Athalye et al., 2018, section 4.1; Tramer et al., 2020)."
    )
    next = "Evaluate with Adaptive, which takes the strongest combinations, or audit through another one (--backward)."

    def attacks(self, plan: Plan) -> Mapping[str, Attack]:
        """PGD through each combination; nothing if there is no choice."""
        return {**plan.white_box(), **plan.through()}

    def judge(self, rows: Rows, plan: Plan) -> Finding:
        """Fails if many images are broken only through a backward pass that the audited attacks do not take."""
        through, white = list(plan.through()), list(plan.white_box())
        if not through:
            return self.skipped("the network offers no other backward pass")
        only = rows.only(through, white)
        figure = f"{percent(only)} broken only through another one"
        if len(through) < len(plan.combinations):
            figure += f" ({len(through)} of {len(plan.combinations)} combinations)"
        groups = {"audited": white, **{name.removeprefix("through "): [name] for name in through}}
        return self.finding(judged(only, NEVER), figure, only, as_bars(rows, groups))
