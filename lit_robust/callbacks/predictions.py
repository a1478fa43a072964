"""Predictions of a run on its test set, as a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor


class PredictionsFile(BasePredictionWriter):
    """Writes `predictions.csv`: index, label, prediction and confidence of each image, in the order of the data."""

    NAME = "predictions.csv"

    def __init__(self) -> None:
        super().__init__(write_interval="epoch")

    def write_on_epoch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        predictions: Sequence[Any],
        batch_indices: Sequence[Any],
    ) -> None:
        """Writes a part for each process; the first process merges them."""
        folder = Path(trainer.strategy.broadcast(trainer.default_root_dir))
        rows = [row for batch in predictions for row in _rows(batch)]
        _write(folder / f"{trainer.global_rank}.part", rows)
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            parts = [folder / f"{rank}.part" for rank in range(trainer.world_size)]
            merged = [row for part in parts for row in _read(part)]
            _write(folder / self.NAME, sorted(merged, key=lambda row: int(row["index"])))
            for part in parts:
                part.unlink()
            print(f"predictions: {folder / self.NAME}")


def _rows(batch: dict[str, Tensor]) -> list[dict[str, Any]]:
    columns = {key: value.tolist() for key, value in batch.items()}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["index", "label", "prediction", "confidence"])
        writer.writeheader()
        writer.writerows(rows)


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
