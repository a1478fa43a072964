"""The command line. A subcommand is a function of its arguments, added to `SUBCOMMANDS` below and nowhere else."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence

from lit_robust import __version__
from lit_robust.errors import UserError

DEBUG = "LIT_ROBUST_DEBUG"  # set to see the traceback of a user's mistake


def _train_or_measure(subcommand: str) -> Callable[[Sequence[str]], None]:
    def command(argv: Sequence[str]) -> None:
        from lit_robust.lightning_cli import run_subcommand  # builds a Trainer; heavy

        run_subcommand(subcommand, argv)

    return command


def _compare(argv: Sequence[str]) -> None:
    from lit_robust.comparison import compare  # heavy, as above

    compare(argv)


def _combine(argv: Sequence[str]) -> None:
    from lit_robust.combination import combine  # heavy, as above

    combine(argv)


def _report(argv: Sequence[str]) -> None:
    from lit_robust.report import report  # heavy, as above

    report(argv)


def _sweep(argv: Sequence[str]) -> int:
    from lit_robust.sweep.command import main

    return main(argv)


def _audit(argv: Sequence[str]) -> int:
    from lit_robust.audit import main  # heavy, as above

    return main(argv)


def _doctor(argv: Sequence[str]) -> int:
    from lit_robust.doctor.command import main  # heavy, as above

    return main(argv)


def _export(argv: Sequence[str]) -> int:
    from lit_robust.export import main  # heavy, as above

    return main(argv)


SUBCOMMANDS: dict[str, tuple[str, Callable[[Sequence[str]], int | None]]] = {
    "fit": ("train a network", _train_or_measure("fit")),
    "validate": ("measure a run on its validation set", _train_or_measure("validate")),
    "test": ("measure a run on its test set, under attack", _train_or_measure("test")),
    "predict": ("write a run's predictions on its test set", _train_or_measure("predict")),
    "compare": ("test several runs alike, and pair them image by image", _compare),
    "combine": ("put finished tests of one network together: the worst case of all attacks", _combine),
    "report": ("write one page about finished tests of runs", _report),
    "sweep": ("run a grid of configs over seeds, and tabulate it", _sweep),
    "audit": ("ask whether a robust accuracy is credible", _audit),
    "doctor": ("look for known mistakes in seconds, before a long run", _doctor),
    "export": ("write a run's weights, a script that loads them, and a claim", _export),
}

USAGE = f"""lit_robust {__version__}: train, attack and explain image classifiers with structural defenses

usage: python -m lit_robust COMMAND [--config FILE]... [--KEY VALUE]...
       python -m lit_robust combine TEST TEST...
       python -m lit_robust report RUN... [--to FILE]
       python -m lit_robust sweep FILE [--KEY VALUE]...
       python -m lit_robust doctor [--run RUN] [--config FILE]... [--KEY VALUE]...
       python -m lit_robust audit --run RUN [--eps 8/255] [--strict] [--KEY VALUE]...
       python -m lit_robust export --run RUN [--to FOLDER]

commands:
{chr(10).join(f"  {name:10}{text}" for name, (text, _) in SUBCOMMANDS.items())}

  COMMAND --help          all settings of a command
  COMMAND --print_config  the whole config that it would run with

options of fit, validate, test and predict:
  --config FILE           a config: a path, or the bare name of a shipped one; several are laid over each other
  --KEY VALUE             overrides a setting of the config, as in --trainer.max_epochs 5
  --run FOLDER            the run to start from: its config lies under every --config, its best weights are loaded
  --ckpt_path WHICH       best, last, a file, or none for untrained weights
  --resume FOLDER         (fit, test) goes on with an interrupted run or test
  --model-file FILE:NAME  a network's class or function in a Python file, net.py:Net
  --budget TIME           (test) as many test images as 90s, 30min or 2h are enough for
  --name NAME             name of the run, instead of the first config's
  --runs FOLDER           folder of all runs, instead of runs/

The folder that data are looked for in is data.root, else $LIT_ROBUST_DATA, else data/.
Class paths in a config name code that is run: use configs that you trust."""


def run(argv: Sequence[str]) -> int:
    """Runs the command line and returns the exit code: 0, 2 for a mistake of the user's, or what a command returns."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    if argv[0] == "--version":
        print(__version__)
        return 0
    try:
        if argv[0] not in SUBCOMMANDS:
            raise UserError(f"no command {argv[0]!r}; there are {', '.join(SUBCOMMANDS)} (--help says more)")
        with warnings.catch_warnings():
            _quiet()
            return SUBCOMMANDS[argv[0]][1](argv[1:]) or 0
    except UserError as error:
        if os.environ.get(DEBUG):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2


def _quiet() -> None:
    """Hides what the libraries below say and a user can do nothing about."""
    # Lightning 2.6 calls functions that jsonargparse 4.49 and torch 2.14 renamed.
    warnings.filterwarnings("ignore", message=r"[\s\S]*(instantiate_classes|JsonargparseDeprecationWarning)")
    warnings.filterwarnings("ignore", message=r".*LeafSpec")
    # Our loaders slice tensors in memory: there are no workers to add. Without a validation part there is no loader.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*Total length of `list` across ranks is zero.*")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_no_advertisement)


def _no_advertisement(record: logging.LogRecord) -> bool:
    return "litlogger" not in record.getMessage()
