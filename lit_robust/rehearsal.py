"""A command up to its start: data, network with its weights and attacks are built, nothing is claimed or written."""

from __future__ import annotations

from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Trainer

from lit_robust.lightning_cli import RobustCLI, _as_list


class Rehearsal(RobustCLI):
    """Builds what a command would run, and stops there.

    Args:
        line: What was asked for.

    Attributes:
        callbacks: The trainer's callbacks that the config names.
    """

    def _set_seed(self) -> None:
        """Leaves torch's generator alone."""

    def _claim(self) -> None:
        """Claims no folder."""

    def _save_config(self) -> None:
        """Writes nothing."""

    def _guard(self) -> None:
        """Asks the regime alone: what is built may be looked at afterwards, and will be guarded where it starts."""
        self.model.check(self.datamodule)

    def _prepare_loggers(self, config: Namespace) -> None:
        """Checks the loggers, and builds none of them."""
        super()._prepare_loggers(config)
        config.trainer.logger = None

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:  # noqa: ANN401 - as Lightning's
        """No trainer: it would announce devices that are not used."""
        self.callbacks = _as_list(self.config_init[self.line.subcommand].trainer.callbacks)
        return None  # type: ignore[return-value]

    def _run_subcommand(self, subcommand: str) -> None:
        """Runs nothing."""
