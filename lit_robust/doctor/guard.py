"""The start of a run: errors stop it before any work, warnings are said once."""

from __future__ import annotations

import sys

from jsonargparse import Namespace

from lit_robust.command_line import CommandLine
from lit_robust.data import ImageData
from lit_robust.doctor.checks import CHECKS
from lit_robust.doctor.diagnose import diagnose
from lit_robust.doctor.planned import planned
from lit_robust.doctor.subject import Subject
from lit_robust.errors import UserError
from lit_robust.regimes import RobustClassifier

_AT_START = tuple(check for check in CHECKS if check.at_start)


def guard(subject: Subject, *, rank: int = 0) -> None:
    """Runs the checks of the list that take no time.

    Args:
        subject: The run.
        rank: Number of the process. The first one looks at everything and speaks; the others, which may be started
            before the data are there, ask the regime alone.

    Raises:
        UserError: At the first error.
    """
    if rank != 0:
        if subject.model is not None:
            subject.model.check(subject.data)
        return
    for diagnosis in diagnose(subject, _AT_START):
        if diagnosis.verdict == "error":
            raise UserError(diagnosis.message)
        if diagnosis.verdict == "warning":
            print(f"warning: {diagnosis.message}", file=sys.stderr, flush=True)


def guard_command(
    model: RobustClassifier, data: ImageData, built: Namespace, line: CommandLine, *, rank: int = 0
) -> None:
    """Guards the start of a command; arguments as for `planned` and `guard`.

    Raises:
        UserError: At the first error.
    """
    guard(planned(model, data, built, line), rank=rank)
