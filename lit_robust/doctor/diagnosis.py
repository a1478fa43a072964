"""What a check says: a verdict, what was found, and how to mend it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lit_robust.errors import UserError

Verdict = Literal["ok", "warning", "error", "skipped"]


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """The outcome of one check, or one of several things that it found.

    Attributes:
        check: Name of the check.
        verdict: `ok`, `warning`, `error`, or `skipped` where there was nothing to look at.
        found: What was found.
        mend: What to do about it; empty if there is nothing to do.
    """

    check: str
    verdict: Verdict
    found: str
    mend: str = ""

    @property
    def message(self) -> str:
        """The finding and the remedy in one line."""
        return f"{self.found}; {self.mend}" if self.mend else self.found


def ok(found: str) -> Diagnosis:
    """A check that found no mistake; its name is filled in where the list is run."""
    return Diagnosis(check="", verdict="ok", found=found)


def skipped(found: str) -> Diagnosis:
    """A check that had nothing to look at."""
    return Diagnosis(check="", verdict="skipped", found=found)


def warning(found: str, mend: str) -> Diagnosis:
    """A probable mistake."""
    return Diagnosis(check="", verdict="warning", found=found, mend=mend)


def error(found: str, mend: str) -> Diagnosis:
    """A mistake after which no result would mean what it says."""
    return Diagnosis(check="", verdict="error", found=found, mend=mend)


def refused(mistake: UserError) -> Diagnosis:
    """A mistake that another part of the package refuses: its message up to the remedy, and the remedy."""
    found, _, mend = str(mistake).partition("; ")
    return error(found, mend)
