"""What every check of an audit is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from lit_robust.attacks import Attack
from lit_robust.audit.finding import Finding, Picture, Verdict
from lit_robust.audit.plan import Plan
from lit_robust.audit.rows import Rows
from lit_robust.evaluation.full_block import FullBlock


class Check(ABC):
    """One question to a model, answered from what attacks did to its images.

    Attributes:
        name: What it is called.
        why: Why it matters, with the source.
        next: What to do if it warns or fails.
    """

    name: ClassVar[str]
    why: ClassVar[str]
    next: ClassVar[str]

    def attacks(self, plan: Plan) -> Mapping[str, Attack]:
        """The rows that it needs, by name; rows of one name are the same attack and run once."""
        return {}

    def measure(self, block: FullBlock, plan: Plan) -> dict[str, Any]:
        """Columns of its own for a block, (N,) each, of which no two checks share a name."""
        return {}

    @abstractmethod
    def judge(self, rows: Rows, plan: Plan) -> Finding:
        """The verdict, which depends on the columns and the plan alone."""

    def finding(self, verdict: Verdict, figure: str, value: float | None, picture: Picture | None = None) -> Finding:
        """A finding of this check.

        Args:
            verdict: The verdict.
            figure: The figure in words.
            value: Its number.
            picture: What is drawn.
        """
        return Finding(
            check=self.name,
            verdict=verdict,
            figure=figure,
            value=value,
            why=self.why,
            next=self.next,
            picture=picture,
        )

    def skipped(self, reason: str) -> Finding:
        """The finding of a check that has nothing to look at."""
        return self.finding("skipped", reason, None)


def percent(share: float) -> str:
    """A share in percent, as the audit prints it: `3.0 %`."""
    return f"{100 * share:.1f} %"


def as_bars(rows: Rows, groups: Mapping[str, list[str]]) -> Picture:
    """A bar of accuracy for each group of attacks.

    Args:
        rows: The rows.
        groups: Names of the attacks of each bar, of which the strongest counts for each image.
    """
    return Picture(
        x=list(groups),
        series={"": [rows.accuracy(*group) for group in groups.values()]},
        x_label="",
        y_label="accuracy",
    )
