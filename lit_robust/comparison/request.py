"""What a `compare` command line asks for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lit_robust import model_zoo, shipped
from lit_robust.command_line import split
from lit_robust.errors import UserError

_OWN = ("--run", "--label", "--config", "--runs", "--ckpt_path")
_REUSE = "--reuse"

HELP = """usage: python -m lit_robust compare --config FILE... --run FOLDER --run FOLDER... [--KEY VALUE]...

Tests every run with the same configs and settings, as `test --run FOLDER --config FILE...` does, and prints one table:
each run's figures and, for each run after the first, its difference to the first on the same images in percentage
points, with a 95 % interval (Tango, 1998) and McNemar's exact p-value. Each test lies in its run's tests/ folder;
comparison.json, comparison.csv, config.yaml and the joint pictures of the measurements go to comparisons/<config>-<n>/,
beside the folder of all runs.

  --run FOLDER       a run; given once for each, the first is what the others are compared with
  --label TEXT       what a run is called, in the order of --run; NAME/NUMBER unless given
  --config FILE      the evaluation, as for `test`
  --KEY VALUE        overrides a setting of every test, as in --data.eval_batch_size 100
  --ckpt_path WHICH  best or last, of every run
  --reuse            takes a run's finished test instead of a new one where settings, checkpoint and version are the
                     same; changes in the code of your own classes and in data files are not seen
  --runs FOLDER      folder of all runs, instead of runs/; comparisons/ is beside it"""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to compare.

    Attributes:
        runs: Run folders, the first being what the others are compared with.
        labels: What they are called.
        configs: Config files of the evaluation, each laid over those before it.
        options: Settings of every test, as they stood.
        folder: Folder of all comparisons.
        reuse: Whether a finished test of the same settings is taken.
    """

    runs: tuple[Path, ...]
    labels: tuple[str, ...]
    configs: tuple[Path, ...]
    options: tuple[str, ...]
    folder: Path
    reuse: bool

    @property
    def title(self) -> str:
        """What the evaluation is called: the last config's name."""
        return self.configs[-1].stem

    def test(self, run: Path) -> list[str]:
        """The arguments of a run's `test`."""
        configs = [part for path in self.configs for part in ("--config", str(path))]
        return ["--run", str(run), *configs, *self.options]


def read(argv: Sequence[str]) -> Request:
    """Takes a command line apart.

    Args:
        argv: What follows `compare`.

    Raises:
        UserError: If there are fewer than two runs, one is given twice or is not there, labels do not fit, there is no
            config or no such config, or a checkpoint's file is named.
    """
    own, others = split([a for a in argv if a != _REUSE], _OWN)
    root = Path(own["--runs"][-1] if own["--runs"] else "runs")
    folders = tuple(model_zoo.resolve(value, root) for value in own["--run"])
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        raise UserError("compare is one process that starts tests; for several devices: --trainer.devices N")
    if len(folders) < 2:
        raise UserError(f"compare needs two runs or more, each after a --run of its own; got {len(folders)}")
    if not own["--config"]:
        raise UserError("compare needs the evaluation that all runs get: --config FILE, such as linf_8.yaml")
    configs = tuple(shipped.find(name) for name in own["--config"])
    _check_runs(folders)
    if any(which not in ("best", "last") for which in own["--ckpt_path"]):
        raise UserError("--ckpt_path of a comparison is best or last: each run has its own weights")
    kept = [part for option in ("--runs", "--ckpt_path") for value in own[option] for part in (option, value)]
    return Request(
        runs=folders,
        labels=_labels(folders, own["--label"]),
        configs=configs,
        options=(*kept, *others),
        folder=root.parent / "comparisons",
        reuse=_REUSE in argv,
    )


def _check_runs(folders: Sequence[Path]) -> None:
    seen: dict[Path, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"--run: no run folder {folder}")
        if folder.resolve() in seen:
            raise UserError(f"--run: {folder} and {seen[folder.resolve()]} are the same run")
        seen[folder.resolve()] = folder


def _labels(folders: Sequence[Path], given: Sequence[str]) -> tuple[str, ...]:
    if given and len(given) != len(folders):
        raise UserError(f"expected a --label for each run in order, or none; got {len(given)} for {len(folders)} runs")
    labels = tuple(given) or tuple(f"{f.resolve().parent.name}/{f.resolve().name}" for f in folders)
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise UserError(f"two runs would be called {twice[0]}: name each with --label TEXT, in the order of --run")
    return labels
