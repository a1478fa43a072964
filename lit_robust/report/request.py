"""What a `report` command line asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lit_robust import model_zoo
from lit_robust.errors import UserError

HELP = """usage: python -m lit_robust report RUN... [--to FILE] [--runs FOLDER]

Writes one HTML page about the finished tests of one run or several, side by side: accuracies with intervals and
protocol, the audit's verdict beside every robust accuracy, curves, measurements, the hardest images, and how the runs
after the first differ from it on the same images. The newest finished test of each title counts. The page needs no
network and no script; its pictures are in it, and beside it as PNG files. Nothing is tested: where results are missing,
the page has the command that makes them.

  RUN            a run folder, such as runs/quickstart/1, or a model of the zoo, such as zoo/natural
  --to FILE      the page, FILE.html, instead of reports/<names>-<n>/report.html
  --runs FOLDER  folder of all runs, instead of runs/; reports/ is beside it"""

_LONGEST = 80  # characters of a folder's name


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to report on.

    Attributes:
        runs: Run folders, the first being what the others are compared with.
        labels: What they are called.
        to: The page, or None for a new folder of its own in `folder`.
        folder: Folder of all reports.
    """

    runs: tuple[Path, ...]
    labels: tuple[str, ...]
    to: Path | None
    folder: Path

    @property
    def names(self) -> str:
        """The runs' names, each once, for the name of a folder."""
        return "-".join(dict.fromkeys(run.resolve().parent.name for run in self.runs))[:_LONGEST]


def read(argv: Sequence[str]) -> Request:
    """Takes a command line apart.

    Args:
        argv: What follows `report`.

    Raises:
        UserError: If no run is named, one is given twice or is no run, or an option is not known or has no value.
    """
    given: list[str] = []
    own: dict[str, str] = {}
    rest = iter(argv)
    for argument in rest:
        option, equals, value = argument.partition("=")
        if not argument.startswith("-"):
            given.append(argument)
            continue
        if option not in ("--to", "--runs"):
            raise UserError(f"report knows no option {option}; there are --to FILE and --runs FOLDER")
        own[option] = value if equals else next(rest, "")
        if not own[option] or (not equals and own[option].startswith("--")):
            raise UserError(f"expected a value after {option}")
    if not given:
        raise UserError("report needs a run or more, such as: python -m lit_robust report runs/quickstart/1")
    root = Path(own.get("--runs", "runs"))
    folders = tuple(model_zoo.resolve(value, root) for value in given)
    _check_runs(folders)
    to = Path(own["--to"]) if "--to" in own else None
    if to is not None and (to.suffix.lower() not in (".html", ".htm") or to.is_dir()):
        raise UserError(f"--to: expected the name of an HTML page, such as report.html, got {to}")
    return Request(runs=folders, labels=labels(folders), to=to, folder=root.parent / "reports")


def _check_runs(folders: Sequence[Path]) -> None:
    from lit_robust import runs

    seen: dict[Path, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"no run folder {folder}")
        if folder.resolve() in seen:
            raise UserError(f"{folder} and {seen[folder.resolve()]} are the same run; give each once")
        seen[folder.resolve()] = folder
        if folder.resolve().parent.name == "tests":
            raise UserError(f"{folder} is a test; a report is on runs: {folder.resolve().parents[1]}")
        inside = sorted(str(path.parent) for path in folder.glob(f"*/{runs.CONFIG}"))
        if not (folder / runs.CONFIG).is_file():
            hint = f"; there are {', '.join(inside)}" if inside else ", such as runs/quickstart/1"
            raise UserError(f"expected a run folder with a {runs.CONFIG}, got {folder}{hint}")


def labels(folders: Sequence[Path]) -> tuple[str, ...]:
    """What runs are called: NAME/NUMBER, with as many folders above as tell them apart.

    Args:
        folders: Run folders, all different.
    """
    parts = [folder.resolve().parts for folder in folders]
    for count in range(2, max(map(len, parts)) + 1):
        found = tuple("/".join(each[-count:]) for each in parts)
        if len(set(found)) == len(found):
            return found
    return tuple(str(folder.resolve()) for folder in folders)
