"""What a command line asks for: which configs in which order, which run, which checkpoint, which folder.

These options are read before the parser of the configs, because they decide what it reads: `--run FOLDER` lays that
run's config under every other one wherever it stands, and settings on the command line come after all files.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lit_robust import model_zoo, runs, shipped
from lit_robust.errors import UserError

_OWN = ("--config", "--run", "--resume", "--ckpt_path", "--name", "--runs", "--model-file", "--budget")
DEFAULTS = "defaults.yaml"
NO_CHECKPOINT = "none"


@dataclass
class CommandLine:
    """A command line taken apart.

    Attributes:
        subcommand: `fit`, `validate`, `test` or `predict`.
        configs: Config files, each laid over those before it.
        overrides: All other options, as they stood.
        name: Name of the run.
        root: Folder of all runs.
        run: The run that the command is about: to test, to start from, or to resume.
        resume: Whether `fit` goes on in `run`, or `test` in `test`.
        test: Folder of the interrupted test that `test` goes on with.
        checkpoint: Weights to load, if any.
        title: What the last config is called; names the folder of a test.
    """

    subcommand: str
    configs: list[Path]
    overrides: list[str]
    name: str
    root: Path
    run: Path | None = None
    resume: bool = False
    test: Path | None = None
    checkpoint: Path | None = None
    title: str = "test"

    @property
    def arguments(self) -> list[str]:
        """What is left for the parser of the configs."""
        configs = [part for path in self.configs for part in ("--config", str(path))]
        return [self.subcommand, *configs, *self.overrides]


def read(subcommand: str, argv: Sequence[str]) -> CommandLine:
    """Takes a command line apart.

    Args:
        subcommand: The subcommand.
        argv: What follows it.

    Raises:
        UserError: If a config, a run or a checkpoint is not there.
    """
    own, overrides = split(argv, _OWN)
    asks = any(a in ("-h", "--help") or a.startswith("--print_config") for a in overrides)  # for settings, not a run
    given = [shipped.find(name) for name in own["--config"]]
    root = Path(own["--runs"][-1] if own["--runs"] else "runs")
    run = _folder([str(model_zoo.resolve(value, root)) for value in own["--run"][-1:]], "--run")
    resume = _folder(own["--resume"], "--resume")
    if resume is not None and (subcommand not in ("fit", "test") or run is not None):
        raise UserError("--resume FOLDER goes on with a run (`fit`) or a test (`test`) and leaves no room for --run")
    test = None
    if resume is not None and subcommand == "test":
        if (resume / runs.CONFIG).is_file() and (resume / "tests").is_dir():
            raise UserError(
                f"{resume} is a run; --resume takes the folder of an interrupted test of it, such as "
                f"{resume / 'tests' / 'TITLE-1'}, and --run begins a test"
            )
        test, run, resume = resume, resume.parent.parent, None
        given = [runs.config_file(test), *given]
    if own["--model-file"]:
        overrides = _with_network(overrides, _from_file(own["--model-file"][-1]))
    if own["--budget"]:
        overrides = [*overrides, f"--evaluation.budget={own['--budget'][-1]}"]
    name = own["--name"][-1] if own["--name"] else _name(given, run or resume, root)
    title = test.name.rpartition("-")[0] if test else given[-1].stem if given else subcommand
    needs_run = subcommand != "fit" and not asks and not _is_path(own["--ckpt_path"])
    if needs_run and run is None:
        run = runs.newest(root, name)
    run = run or resume
    under = [shipped.folder() / DEFAULTS, *([runs.config_file(run)] if run else [])]
    return CommandLine(
        subcommand=subcommand,
        configs=[*under, *given],
        overrides=overrides,
        name=name,
        root=root,
        run=run,
        resume=(resume or test) is not None,
        test=test,
        checkpoint=None if asks else _checkpoint(subcommand, run, resume is not None, own["--ckpt_path"]),
        title=title,
    )


def split(argv: Sequence[str], options: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """The values of some options, each in the order in which it was given, and all other arguments as they stood.

    Raises:
        UserError: If an option has no value.
    """
    own: dict[str, list[str]] = {option: [] for option in options}
    others: list[str] = []
    rest = iter(argv)
    for argument in rest:
        option, equals, value = argument.partition("=")
        option = "--config" if option == "-c" else option
        if option not in own:
            others.append(argument)
        elif equals:
            own[option].append(value)
        else:
            following = next(rest, None)
            if following is None or following.startswith("--"):
                raise UserError(f"expected a value after {option}")
            own[option].append(following)
    return own, others


def _folder(values: list[str], option: str) -> Path | None:
    if not values:
        return None
    folder = Path(values[-1])
    if not folder.is_dir():
        raise UserError(f"{option}: no run folder {folder}")
    return folder


def _with_network(overrides: list[str], class_path: str) -> list[str]:
    """The options with the network's class path: behind the regime's, which takes no network before it is known."""
    regime = [i for i, option in enumerate(overrides) if option == "--model" or option.startswith("--model=")]
    at = 0 if not regime else regime[-1] + (1 if "=" in overrides[regime[-1]] else 2)
    return [*overrides[:at], "--model.network", class_path, *overrides[at:]]


def _from_file(value: str) -> str:
    """The class path of a network in a Python file, `net.py:Net`, whose folder is searched first from now on."""
    path, _, name = value.rpartition(":")
    if not path.endswith(".py") or not name.isidentifier():
        raise UserError(f"--model-file: expected a Python file and a class or function in it, net.py:Net, got {value}")
    if not Path(path).is_file():
        raise UserError(f"--model-file: no file {path}")
    sys.path.insert(0, str(Path(path).resolve().parent))
    return f"{Path(path).stem}.{name}"


def _is_path(values: list[str]) -> bool:
    return bool(values) and values[-1] not in ("best", "last")


def _name(given: list[Path], run: Path | None, root: Path) -> str:
    if run is not None:
        return run.resolve().parent.name
    return given[0].stem if given else "run"


def _checkpoint(subcommand: str, run: Path | None, resume: bool, values: list[str]) -> Path | None:
    which = values[-1] if values else None
    if which == NO_CHECKPOINT or (which is None and run is None):
        return None
    if which is not None and which not in ("best", "last"):
        if not Path(which).is_file():
            raise UserError(f"--ckpt_path: no checkpoint {which}; give a file, or best, last or none")
        return Path(which)
    if run is None:
        raise UserError(f"--ckpt_path {which} needs a run: add --run FOLDER")
    found = runs.checkpoint(run, "last" if resume and which is None else which)
    if found is None:
        raise UserError(f"{run} has no {which or ''} checkpoint; train it first, or give --ckpt_path FILE or none")
    return found
