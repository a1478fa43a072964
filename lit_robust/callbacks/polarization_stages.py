"""What the stages of polarizing training make of the responses and filters."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from lit_robust import radius
from lit_robust.analysis.polarization import danger_shares, largest_taps, response_histogram
from lit_robust.callbacks.filter_figure import filter_figure
from lit_robust.callbacks.polarization_histogram import polarization_histogram
from lit_robust.errors import UserError
from lit_robust.evaluation.store import writing
from lit_robust.loggers import log_figure
from lit_robust.modes import network_mode
from lit_robust.nn.polarizing import PolarizingFrontEnd, polarizing_front_end
from lit_robust.stages import stage_starts

NAME = "polarization"
_ROWS = 256  # images at a time


class PolarizationStages(pl.Callback):
    """Looks at the front end before training and after each stage, in `fit`, as an entry of `trainer.callbacks`.

    The run's folder then holds `polarization.json`, with a histogram of the responses z to the training images, for
    each filter the share of them in the danger zones and what its largest weight has of its L1 norm, and the filters
    themselves; and two pictures of it: `polarization_histogram.png` (dissertation, Fig. 4.4) and
    `polarization_filters.png` (Fig. 4.6).

    Args:
        eps: L∞ radius of the danger zones around the thresholds; a number, or text such as `8/255`.
        stages: Equal parts of the run, at whose ends it looks; 3 for `Polarizing` without `coarser`.
        bins: Bins of the histogram over [−1, 1].
        images: Training images that are looked at, the first ones; None for all.

    Raises:
        UserError: If a number is out of its range.
    """

    def __init__(
        self, *, eps: Fraction | float | str, stages: int = 3, bins: int = 100, images: int | None = None
    ) -> None:
        super().__init__()
        self.eps = float(radius.parse(eps, name="eps"))
        self.stages, self.bins, self.images = stages, bins, images
        if not self.eps >= 0 or stages < 1 or bins < 1 or (images is not None and images < 1):
            raise UserError(
                f"expected PolarizationStages to have eps of 0 or more, and stages, bins and images of at least 1, got "
                f"{eps}, {stages}, {bins} and {images}"
            )
        self._taken: dict[int, dict[str, Any]] = {}  # by the epochs that lie behind

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuses a network without a polarizing front end, before any work."""
        if stage == "fit":
            _front_end(pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A resumed run keeps what was seen before its checkpoint."""
        path = _file(trainer)
        known = json.loads(path.read_text())["snapshots"] if path.is_file() else []
        self._taken = {one["epoch"]: one for one in known if one["epoch"] <= trainer.current_epoch}

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Looks at the start of a stage: not at the end of the one before, which a kill may fall between."""
        self._look(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Looks at the end of the last stage."""
        self._look(trainer, pl_module)

    def _look(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        epoch = trainer.current_epoch
        if epoch not in stage_starts(int(trainer.max_epochs or 1), self.stages):
            return
        if trainer.is_global_zero and epoch not in self._taken:
            front_end = _front_end(pl_module)
            with network_mode(front_end, train=False), torch.no_grad():
                self._taken[epoch] = {"epoch": epoch, **self._snapshot(front_end, trainer.datamodule)}  # type: ignore[attr-defined]
            self._report(trainer, front_end)
        trainer.strategy.barrier()

    def _snapshot(self, front_end: PolarizingFrontEnd, data: Any) -> dict[str, Any]:  # noqa: ANN401 - a data module
        counts = torch.zeros(self.bins, dtype=torch.int64)
        zones, seen = torch.zeros(len(front_end.conv.weight), dtype=torch.float64), 0
        for x in self._batches(front_end, data):
            z = front_end.responses(x)
            counts += response_histogram(z, self.bins).cpu()
            zones += danger_shares(z, front_end.quantizer.thresholds, self.eps).sum(0).cpu()
            seen += len(x)
        return {
            "images": seen,
            "histogram": counts.tolist(),
            "danger": _rounded(zones / seen),
            "largest_tap": _rounded(largest_taps(front_end.conv.weight)),
            "filters": _rounded(front_end.conv.weight),
        }

    def _batches(self, front_end: PolarizingFrontEnd, data: Any) -> Iterator[Tensor]:  # noqa: ANN401 - a data module
        """Training images in [0, 1], not augmented."""
        pixels, weight = data.images(train=True).x, front_end.conv.weight
        for index in data.split[0][: self.images].split(_ROWS):
            x = pixels.index_select(0, index).to(weight)
            yield x / x.new_full((), 255)

    def _report(self, trainer: pl.Trainer, front_end: PolarizingFrontEnd) -> None:
        results = {
            "thresholds": _rounded(front_end.quantizer.thresholds),
            "eps": self.eps,
            "snapshots": [self._taken[epoch] for epoch in sorted(self._taken)],
        }
        path = _file(trainer)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".part")
        with writing(path.parent, path.name):
            aside.write_text(json.dumps(results) + "\n")
            os.replace(aside, path)
            for name, draw in (("histogram", polarization_histogram), ("filters", filter_figure)):
                figure = draw(results)
                figure.savefig(path.with_name(f"{NAME}_{name}.png"), dpi=120)
                log_figure(trainer.loggers, f"train/{NAME}_{name}", figure, trainer.global_step)


def _file(trainer: pl.Trainer) -> Path:
    return Path(trainer.default_root_dir) / f"{NAME}.json"


def _front_end(pl_module: pl.LightningModule) -> PolarizingFrontEnd:
    return polarizing_front_end(getattr(pl_module, "network", pl_module))[1]


def _rounded(values: Tensor) -> Any:  # noqa: ANN401 - nested lists
    return values.detach().double().mul(1e6).round().div(1e6).tolist()
