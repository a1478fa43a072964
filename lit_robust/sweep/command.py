"""`python -m lit_robust sweep`: runs what is left of a sweep, says how far it is, or draws it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lit_robust import shipped
from lit_robust.errors import UserError
from lit_robust.sweep.cell import Sweep
from lit_robust.sweep.file import load
from lit_robust.sweep.queue import Queue
from lit_robust.sweep.status import report

_USAGE = """usage: python -m lit_robust sweep FILE [--runs FOLDER] [--retry-failed] [--KEY VALUE]...
       python -m lit_robust sweep status FILE [--runs FOLDER]
       python -m lit_robust sweep draw FILE [--runs FOLDER]

Runs every cell of a sweep file (a path, or the bare name of a shipped one): `fit`, and `test` where the file asks for
it. Finished cells are skipped and interrupted ones go on, so that the command may be stopped and given again, and given
by several processes at once, also on machines that share the folder. Cells wait for the first stages that they start
from; a process that has nothing else to do waits for those that others train. Each cell is a process alone on one CUDA
device, also in a SLURM job of several tasks.

`status` says what is done, running, failed and lost (its process is dead; the next one takes it over), and how long
the rest will take. `draw` writes the figures of partial training into the sweep's folder, also before it is finished.

  --runs FOLDER           folder of all runs, instead of runs/; the sweep is in FOLDER/sweeps/NAME
  --retry-failed          tries failed cells again, from their last checkpoint
  --KEY VALUE             overrides a setting of every cell, as in --data.root DATA

The exit code is 0 if no cell has failed, 1 if some have, 2 for a mistake in the file, 130 after Ctrl-C. A cell that
another process is at is left to it."""

INTERRUPTED = 130
_LOOKS = ("status", "draw")  # what only looks at a sweep


@dataclass(frozen=True)
class _Asked:
    file: Path
    root: Path
    look: str | None
    retry: bool
    settings: tuple[str, ...]

    def folder(self, sweep: Sweep) -> Path:
        return self.root / "sweeps" / sweep.name


def main(argv: Sequence[str]) -> int:
    """Runs `sweep` and returns its exit code.

    Raises:
        UserError: For mistakes in the file or the command, before anything runs.
    """
    if not argv or {"-h", "--help"} & set(argv):
        print(_USAGE)
        return 0
    asked = _read(argv)
    sweep = load(asked.file, None if asked.look else asked.settings)
    folder = asked.folder(sweep)
    if asked.look == "draw":
        from lit_robust.sweep.drawing import draw  # matplotlib and scipy

        return draw(sweep, folder)
    if asked.look is None:
        try:
            with _stopped_by(signal.SIGTERM, signal.SIGHUP):
                Queue(asked.file, asked.settings, sweep, folder, asked.retry).run()
        except KeyboardInterrupt:
            print("\ninterrupted; the same command goes on", file=sys.stderr)
            return INTERRUPTED
    return report(sweep, folder)


def _read(argv: Sequence[str]) -> _Asked:
    names, settings, root, retry = [], [], "runs", False
    rest = iter(argv)
    for argument in rest:
        option, equals, value = argument.partition("=")
        if not argument.startswith("-"):
            names.append(argument)
        elif argument == "--retry-failed":
            retry = True
        elif not argument.startswith("--"):
            raise UserError(f"a sweep has no option {argument}")
        else:
            given = value if equals else next(rest, None)
            if given is None or (not equals and given.startswith("--")):
                raise UserError(f"expected a value after {option}")
            if option == "--runs":
                root = given
            else:
                settings.append(f"{option}={given}")
    look = names.pop(0) if names[:1] and names[0] in _LOOKS else None
    if len(names) != 1 or (look and (settings or retry)):
        raise UserError(f"expected one sweep file, got {' '.join(argv)}\n{_USAGE.partition(chr(10) * 2)[0]}")
    return _Asked(shipped.find(names[0], shipped.SWEEPS), Path(root), look, retry, tuple(settings))


@contextmanager
def _stopped_by(*signals: signal.Signals) -> Iterator[None]:
    """Lets signals end the sweep as Ctrl-C does, unless they were told to be ignored, as by nohup."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in signals}
    for number in signals:
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in signals:
            signal.signal(number, before[number])
