"""The subject of a command: what `fit` or `test` has built and is about to run."""

from __future__ import annotations

from typing import cast, get_args

from jsonargparse import Namespace
from lightning.pytorch import Callback

from lit_robust.attacks import Attack
from lit_robust.callbacks import RobustEval
from lit_robust.command_line import CommandLine
from lit_robust.data import ImageData
from lit_robust.doctor.subject import Stage, Subject
from lit_robust.regimes import RobustClassifier


def planned(model: RobustClassifier, data: ImageData, built: Namespace, line: CommandLine) -> Subject:
    """What is checked before a command starts.

    Args:
        model: The regime with its network and weights.
        data: The data module.
        built: The command's config with its objects built: `trainer` and `evaluation` are looked at.
        line: The command line.
    """
    assert line.subcommand in get_args(Stage)
    listed = built.trainer.callbacks
    callbacks = [c for c in (listed if isinstance(listed, list) else [listed]) if isinstance(c, Callback)]
    return Subject(
        network=model.network,
        data=data,
        attacks=_attacks(model, built.evaluation, callbacks),
        trainer={key: value for key, value in vars(built.trainer).items() if key not in ("callbacks", "logger")},
        model=model,
        evaluation=built.evaluation,
        callbacks=callbacks,
        stage=cast(Stage, line.subcommand),
        trained=line.checkpoint is not None,
    )


def _attacks(model: RobustClassifier, evaluation: RobustEval, callbacks: list[Callback]) -> dict[str, Attack]:
    """Every attack by where a config names it."""
    named = {
        "model.attack": getattr(model, "attack", None),
        "evaluation.val_attack": evaluation.val_attack,
        **{f"evaluation.attacks.{name}": attack for name, attack in evaluation.given.items()},
        **{f"{type(callback).__name__}.attack": getattr(callback, "attack", None) for callback in callbacks},
    }
    return {name: attack for name, attack in named.items() if isinstance(attack, Attack)}
