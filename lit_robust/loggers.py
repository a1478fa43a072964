"""`metrics.csv`, which a resumed run goes on writing, and figures for every logger that can show them."""

from __future__ import annotations

import csv
import os
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS = "metrics.csv"


class MetricsFile(Logger):
    """Writes each row of metrics to `metrics.csv` as it comes.

    Args:
        folder: Run folder.
        keep_below: For a resumed run, the step from which on rows are dropped, since those steps run again. None
            starts a new file.
    """

    def __init__(self, folder: Path, keep_below: int | None = None) -> None:
        super().__init__()
        self.path = folder / METRICS
        self._rows: list[dict[str, Any]] = []
        self._columns: list[str] = ["epoch", "step"]
        if keep_below is not None and self.path.is_file():
            with self.path.open(newline="") as file:
                self._rows = [row for row in csv.DictReader(file) if int(row["step"]) < keep_below]
            for row in self._rows:
                self._columns += [key for key in row if key not in self._columns]
            if getattr(rank_zero_only, "rank", 0) == 0:
                self._rewrite()

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.path.parent.parent.name

    @property
    def version(self) -> str:
        """Number of the run."""
        return self.path.parent.name

    @property
    def save_dir(self) -> str:
        """Run folder."""
        return str(self.path.parent)

    @property
    def log_dir(self) -> str:
        """Run folder."""
        return self.save_dir

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: object, **kwargs: object) -> None:
        """Nothing: the run's `config.yaml` is the record."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Adds a row."""
        row: dict[str, Any] = {"step": step, **{key: float(value) for key, value in metrics.items()}}
        row["epoch"] = int(row["epoch"]) if "epoch" in row else ""
        new = [key for key in row if key not in self._columns]
        self._rows.append(row)
        if new or not self.path.is_file():
            self._columns += sorted(new)
            self._rewrite()
        else:
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, self._columns).writerow(row)

    def _rewrite(self) -> None:
        aside = self.path.with_suffix(".part")
        with aside.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(self._rows)
        os.replace(aside, self.path)


class TensorBoard(TensorBoardLogger):
    """Lightning's TensorBoard logger, with events in the run's folder.

    Args:
        save_dir: Folder of the events; the command line sets the run's.
        name: Folder below it.
    """

    def __init__(self, save_dir: str = ".", name: str = "tensorboard") -> None:
        super().__init__(save_dir, name=name, version="")


def log_figure(loggers: list[Logger], tag: str, figure: Figure, step: int) -> None:
    """Sends a figure to each logger that shows figures."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            import wandb

            logger.experiment.log({tag: wandb.Image(figure)}, commit=False)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_figure(tag, figure, global_step=step)
