"""Do adversarials of another network break what direct attacks cannot?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lit_robust.attacks import Attack
from lit_robust.audit.checks.base import Check, as_bars, percent
from lit_robust.audit.finding import Finding, judged
from lit_robust.audit.plan import Plan
from lit_robust.audit.rows import Rows
from lit_robust.audit.thresholds import NEVER
from lit_robust.evaluation.full_block import FullBlock

_AGREES = "substitute agrees"


class TransferOnly(Check):
    """PGD on other networks, or on a substitute that has learned the model's predictions, against direct attacks."""

    name = "transfer"
    why = (
        "Adversarials made on another network know nothing of this one; where they win, its own gradients mislead "
        "(Papernot et al., 2017; Carlini et al., 2019)."
    )
    next = "Quote the worst case with transferred attacks (Transfer), and look for the layer that hides the gradient."

    def attacks(self, plan: Plan) -> Mapping[str, Attack]:
        """Transferred and direct attacks."""
        return {**plan.white_box(), **plan.transferred()}

    def measure(self, block: FullBlock, plan: Plan) -> dict[str, Any]:
        """Whether a substitute says the same as the model."""
        if not plan.substitute:
            return {}
        (source,) = plan.sources.values()
        with torch.no_grad():
            agrees = source(block.x).argmax(1) == block.logits(block.x).argmax(1)
        return {_AGREES: agrees}

    def judge(self, rows: Rows, plan: Plan) -> Finding:
        """Fails if many images are broken by transferred attacks alone."""
        transferred, white = list(plan.transferred()), list(plan.white_box())
        if not transferred:
            return self.skipped("no other network")
        only = rows.only(transferred, white)
        figure = f"{percent(only)} broken by it alone"
        if plan.substitute:
            figure += f" (a substitute that agrees on {percent(float(rows.column(_AGREES).mean()))})"
        groups = {"gradients": white, **{name: [name] for name in transferred}}
        return self.finding(judged(only, NEVER), figure, only, as_bars(rows, groups))
