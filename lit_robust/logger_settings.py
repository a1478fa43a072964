"""Loggers that a config asks for are pointed at the run before they are built."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger

from lit_robust.errors import UserError

_NEEDS = {"WandbLogger": "wandb", "TensorBoard": "tensorboard"}


def prepare_loggers(loggers: Iterable[Any], folder: Path, name: str, wandb_id: str | None) -> None:
    """Sets the folder of each logger's settings, and for W&B the project and the name, unless they are set.

    Args:
        loggers: The loggers' parts of a config; what is none is left alone.
        folder: Folder of the run.
        name: Name of the run.
        wandb_id: W&B's own name of the run that is resumed, if it is one.

    Raises:
        UserError: If a package is missing.
    """
    for logger in loggers:
        arguments = getattr(logger, "init_args", None)
        if arguments is None:
            continue
        kind = logger.class_path.rpartition(".")[2]
        package = _NEEDS.get(kind)
        if package and importlib.util.find_spec(package) is None:
            raise UserError(f"{kind} needs {package}: pip install 'lit-robust[{package}]'")
        arguments.save_dir = str(folder)
        if kind == WandbLogger.__name__:
            arguments.project = arguments.project if arguments.project != "lightning_logs" else "lit_robust"
            arguments.name = arguments.name or f"{name}-{folder.name}"
            if wandb_id:
                arguments.id = wandb_id
