"""The perturbation-to-signal ratio at the layers of a network while it trains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

from lit_robust import sampling
from lit_robust.attacks import Attack
from lit_robust.callbacks.layer_psr import LayerPSR
from lit_robust.callbacks.measurement import TABLE
from lit_robust.callbacks.psr_figure import psr_epochs_figure
from lit_robust.callbacks.subject import network_of
from lit_robust.errors import UserError
from lit_robust.evaluation.full_block import FullBlock
from lit_robust.evaluation.store import writing
from lit_robust.loggers import log_figure
from lit_robust.modes import network_mode
from lit_robust.sampling import Noise

NAME = "psr_progress"


class PSRProgress(pl.Callback):
    """Measures the ratio in L2 every few epochs, in `fit`, as an entry of `trainer.callbacks` (cf. Fig. 3.13).

    The levels in dB are logged as `psr/<layer>`; the run's folder and the loggers get a picture of them with a line an
    epoch, `psr_progress.png`. It looks at the same images with the same noise every time, and training goes on as if it
    had not looked. The first process measures, and the others wait for it.

    Args:
        attack: What perturbs the images; a cheap one, since it runs again and again.
        images: Images that are looked at: the first of the validation part, or, in a run without one, the first
            training images, not augmented.
        every_n_epochs: Epochs between two looks; the end of the last epoch is looked at in any case.
        layers: Names of layers; see `LayerPSR`. None for every 2-D convolution.
        seed: Seed of the attack's noise.

    Raises:
        UserError: If a number is below 1.
    """

    def __init__(
        self,
        *,
        attack: Attack,
        images: int = 128,
        every_n_epochs: int = 1,
        layers: Sequence[str] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if images < 1 or every_n_epochs < 1:
            raise UserError(
                f"expected images and every_n_epochs of PSRProgress of at least 1, got {images} and {every_n_epochs}"
            )
        self.images, self.every_n_epochs = images, every_n_epochs
        self._measurement = LayerPSR(attack=attack, layers=layers, norms=["l2"], seed=seed)
        self._history: dict[int, dict[str, float]] = {}  # levels by the epochs that lie behind

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuses what could not be measured, before any work.

        Raises:
            UserError: See `LayerPSR.check`; or if there is no data module.
        """
        if stage != "fit":
            return
        data = getattr(trainer, "datamodule", None)
        if data is None:
            raise UserError("PSRProgress needs a data module of lit_robust.data")
        with _generators_kept(pl_module):
            self._measurement.check(network_of(pl_module), data)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Looks, if it is time to; before the epoch's checkpoint, which holds what was seen."""
        behind = trainer.current_epoch + 1
        if behind % self.every_n_epochs and behind != trainer.max_epochs:
            return
        found = self._levels(trainer.datamodule, pl_module) if trainer.is_global_zero else {}  # type: ignore[attr-defined]
        levels: dict[str, float] = trainer.strategy.broadcast(found)
        self._history[behind] = {name.removeprefix("psr/"): level for name, level in levels.items()}
        pl_module.log_dict(levels, sync_dist=True)
        if trainer.is_global_zero:
            self._draw(trainer)

    def state_dict(self) -> dict[str, Any]:
        """The levels so far."""
        return {"history": [[epoch, levels] for epoch, levels in sorted(self._history.items())]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the levels so far."""
        self._history = {epoch: dict(levels) for epoch, levels in state_dict["history"]}

    def _levels(self, data: Any, pl_module: pl.LightningModule) -> dict[str, float]:  # noqa: ANN401 - a data module
        network, parts = network_of(pl_module), list[dict[str, Any]]()
        index = data.split[1 if data.val_split else 0][: self.images]
        images, size = data.images(train=True), min(data.eval_batch_size, len(index))
        with network_mode(network, train=False), _generators_kept(pl_module), torch.inference_mode(False):
            for rows in index.split(size):
                x = _pixels(images.x.index_select(0, rows), pl_module)
                y, rows = images.y[rows].to(x.device), rows.to(x.device)
                noise = Noise(sampling.keys(rows, seed=self._measurement.seed))
                parts.append(self._measurement.measure(FullBlock(network, x, y, rows, noise, size)))
        columns = {name: np.concatenate([part[name].cpu().numpy() for part in parts]) for name in parts[0]}
        levels: dict[str, float] = self._measurement.summarise(columns)[TABLE]
        return levels

    def _draw(self, trainer: pl.Trainer) -> None:
        history = [{"epoch": epoch, "psr": self._history[epoch]} for epoch in sorted(self._history)]
        title = f"Perturbation-to-signal ratio at the layers' outputs\n{self._measurement.attack}"
        figure, folder = psr_epochs_figure(history, title), Path(trainer.default_root_dir)
        with writing(folder, f"{NAME}.png"):
            folder.mkdir(parents=True, exist_ok=True)
            figure.savefig(folder / f"{NAME}.png", dpi=120)
        log_figure(trainer.loggers, "train/psr", figure, trainer.global_step)


def _pixels(stored: Tensor, pl_module: pl.LightningModule) -> Tensor:
    """Images in [0, 1], on the device and in the type of the network."""
    x = stored.to(pl_module.device).to(pl_module.dtype)
    return x / x.new_full((), 255)


def _generators_kept(pl_module: pl.LightningModule) -> Any:  # noqa: ANN401 - a context
    """Context after which torch's generators are as before: a network may draw from them in eval mode too."""
    return torch.random.fork_rng([pl_module.device] if pl_module.device.type == "cuda" else [])
