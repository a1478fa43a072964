"""The command `doctor`: builds what `fit` or `test` would run, starts nothing, and runs every check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from lit_robust import command_line
from lit_robust.doctor.diagnose import diagnose
from lit_robust.doctor.diagnosis import refused
from lit_robust.doctor.planned import planned
from lit_robust.doctor.show import show
from lit_robust.doctor.subject import Subject
from lit_robust.errors import UserError
from lit_robust.rehearsal import Rehearsal

HELP = """usage: python -m lit_robust doctor [--run RUN] [--config FILE]... [--KEY VALUE]...

Seconds, before a long run: builds data, network, attacks and the trainer's settings as `fit` and `test` would, starts
nothing, writes nothing, and looks for known mistakes on a few images. Prints a row a check: its verdict, what was found
and how to mend it. The exit code is 1 if there is an error, 2 if the command line or a config cannot be read, else 0.
The cheap ones of the same checks run at the start of `fit`, `validate`, `test` and `predict`.

All options are those of `fit`, such as --run, --config, --ckpt_path, --model-file and --data.root; with --run the
weights of the run are loaded."""

_STAGE = "fit"  # the command whose settings are parsed; it needs no run, and has those of `test` too


class _NotBuiltError(UserError):
    """What a readable config describes cannot be built."""


class _Patient(Rehearsal):
    """A rehearsal that tells a config that cannot be read from one that cannot be built."""

    def instantiate_classes(self) -> None:
        """Builds data, network and attacks.

        Raises:
            _NotBuiltError: If one of them refuses.
        """
        try:
            super().instantiate_classes()
        except UserError as mistake:
            raise _NotBuiltError(str(mistake)) from mistake

    def _guard(self) -> None:
        """Leaves the checks to the command."""


def main(argv: Sequence[str]) -> int:
    """Looks for known mistakes, and prints what was found.

    Args:
        argv: What follows `doctor`.

    Returns:
        1 if there is an error, else 0.

    Raises:
        UserError: If the command line or a config cannot be read.
    """
    if any(a in ("-h", "--help") for a in argv):
        print(HELP)
        return 0
    try:
        subject = build(argv)
    except _NotBuiltError as mistake:
        found = [replace(refused(mistake), check="what the config describes")]
    else:
        found = list(diagnose(subject))
    show(found)
    return 1 if any(each.verdict == "error" for each in found) else 0


def build(argv: Sequence[str]) -> Subject:
    """Builds what is checked; nothing is started or written.

    Args:
        argv: What follows `doctor`.

    Raises:
        UserError: If the command line or a config cannot be read, or something cannot be built.
    """
    line = command_line.read(_STAGE, argv)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of weights that are not loaded
        built = _Patient(line)
    return replace(planned(built.model, built.datamodule, built.config_init[_STAGE], line), stage=None)
