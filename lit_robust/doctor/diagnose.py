"""Running checks on a subject."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from lit_robust.doctor.checks import CHECKS, Check
from lit_robust.doctor.diagnosis import Diagnosis, refused, warning
from lit_robust.doctor.subject import Subject
from lit_robust.errors import UserError

_MISTAKES = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def diagnose(subject: Subject, checks: Sequence[Check] = CHECKS) -> Iterator[Diagnosis]:
    """What each check says, as it says it.

    Once a gate has found an error, later checks that ask the network are skipped: they would say the same in other
    words, or fail.

    Args:
        subject: What is checked.
        checks: The checks, in the order in which they run.
    """
    closed = ""  # the gate that found the network unfit to be asked
    for check in checks:
        if check.asks and closed:
            yield Diagnosis(check=check.name, verdict="skipped", found=f"after the error in {closed}")
            continue
        for diagnosis in _look(check, subject):
            yield replace(diagnosis, check=check.name)
            if check.gate and diagnosis.verdict == "error":
                closed = check.name


def _look(check: Check, subject: Subject) -> list[Diagnosis]:
    try:
        return list(check.look(subject))
    except UserError as mistake:
        return [refused(mistake)]
    except _MISTAKES as error:  # of a network, an attack or data of the user's own
        text = " ".join(str(error).split()) or "no more is known"
        return [
            warning(f"could not be looked at: {type(error).__name__}: {text}", "mend what raised it, and ask again")
        ]
