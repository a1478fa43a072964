"""A Trainer's work and a plain loop's, in turns within one process."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Literal

import lightning.pytorch as pl
import torch
import yaml

from lit_robust import shipped

# One line a benchmark: Lightning's remarks on devices are left out.
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def shipped_options() -> dict[str, Any]:
    """The Trainer's options that lie under every config."""
    defaults = yaml.safe_load((shipped.folder() / "defaults.yaml").read_text())
    trainer: dict[str, Any] = defaults["trainer"]
    del trainer["max_epochs"]  # each benchmark has its own
    return {**trainer, "accelerator": "cpu"}


class Interleave(pl.Callback):
    """Runs a plain loop's epoch or step before each of the Trainer's, and times both.

    The Trainer's clock runs from where the plain part is done until the Trainer gets to its next epoch or step, so that
    nothing that it does in between is left out. The first turn warms both up and does not count.

    Args:
        plain: The plain loop's epoch or step.
        every: What a turn is.
    """

    def __init__(self, plain: Callable[[], object], every: Literal["epoch", "batch"]) -> None:
        super().__init__()
        self.plain = plain
        self.every = every
        self._ours: list[float] = []
        self._theirs: list[float] = []
        self._started = 0.0

    @property
    def ours(self) -> list[float]:
        """Seconds of the Trainer's turns."""
        return self._ours[1:]

    @property
    def theirs(self) -> list[float]:
        """Seconds of the plain loop's turns."""
        return self._theirs[1:]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A turn, if turns are epochs."""
        if self.every == "epoch":
            self._turn()

    def on_train_batch_start(self, *args: object) -> None:
        """A turn, if turns are batches."""
        if self.every == "batch":
            self._turn()

    def on_train_end(self, *args: object) -> None:
        """The end of the Trainer's last turn."""
        self._ours.append(time.perf_counter() - self._started)

    def _turn(self) -> None:
        now = time.perf_counter()
        if self._theirs:
            self._ours.append(now - self._started)
        # The Trainer's `deterministic` holds for the whole process, but is no part of a plain loop.
        mode = torch.get_deterministic_debug_mode()
        torch.set_deterministic_debug_mode(0)
        started = time.perf_counter()
        self.plain()
        self._theirs.append(time.perf_counter() - started)
        torch.set_deterministic_debug_mode(mode)
        self._started = time.perf_counter()
