"""What every measurement on the test set shares: blocks in, one table, one figure file and one JSON out."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import lightning.pytorch as pl
import torch
from torch import nn

from lit_robust import sampling
from lit_robust.errors import UserError
from lit_robust.evaluation.full_block import FullBlock
from lit_robust.evaluation.store import PartStore, writing
from lit_robust.loggers import log_figure
from lit_robust.modes import assert_eval
from lit_robust.sampling import Noise

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # images (N, C, H, W), labels (N,), indices (N,)
Results = Mapping[str, Any]
_NUMBERS = re.compile(r"\[[-+0-9.eE,\s]*\]")  # a list of numbers, which json.dumps spreads over as many lines
TABLE = "table"  # key of the headline figures in a measurement's JSON: a number by name


class Measurement(pl.Callback, ABC):
    """Measures a network on the blocks of the test set, in `test`, as an entry of `trainer.callbacks`.

    The test's folder then holds `<name>.parquet` (rows of samples), `<name>.json` (figures, and how they were measured)
    and `<name>.png`. Rows are written block by block, so that several processes measure together and the figures
    depend on neither their number nor the order of the samples.

    Args:
        seed: Seed of the measurement's noise.
    """

    name: ClassVar[str]

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed
        self.provenance: dict[str, Any] = {}
        self.goes_on = False  # with the rows that are in the test's folder
        self._folder = Path()
        self._samples = self._rows = 0

    def check(self, network: nn.Module, data: Any) -> None:  # noqa: ANN401 - a data module; optional
        """Refuses what could not be measured, before any work.

        Args:
            network: The network.
            data: The data module.

        Raises:
            UserError: If the network or the data do not fit.
        """

    @abstractmethod
    def measure(self, block: FullBlock) -> dict[str, Any]:
        """Columns of one length, `index` among them, for a block: tensors or lists; see `PartStore.write_columns`."""

    @abstractmethod
    def summarise(self, columns: dict[str, Any]) -> dict[str, Any]:
        """The figures as plain JSON, from the columns of all blocks (NumPy arrays, in the order of the samples).

        The entry `table`, a number by name, is printed and logged, and is what comparisons and sweeps show.
        """

    @classmethod
    @abstractmethod
    def draw(cls, results: Mapping[str, Results]) -> Figure:
        """Draws saved results.

        Args:
            results: The contents of `<name>.json` of one or more runs, by what they are to be called.
        """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuses what could not be measured, before any work."""
        if stage != "test":
            return
        data = getattr(trainer, "datamodule", None)
        if data is None:
            raise UserError(f"{type(self).__name__} needs a data module of lit_robust.data")
        others = [c for c in trainer.callbacks if isinstance(c, Measurement) and c.name == self.name]  # type: ignore[attr-defined]
        if len(others) > 1:
            raise UserError(f"two measurements of a test would both write {self.name}.json; run a test for each")
        self._folder = Path(trainer.strategy.broadcast(str(trainer.default_root_dir)))
        self.check(_network(pl_module), data)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts from nothing, also in a second test, unless it goes on with what is in the folder."""
        self._samples = self._rows = 0
        if not self.goes_on and trainer.is_global_zero:
            self._store.clear()
        trainer.strategy.barrier()

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Measures the block and writes its rows, unless they are there already."""
        number = batch_idx * trainer.world_size + trainer.global_rank  # blocks are dealt to processes in turn
        self._samples += len(batch[0])
        there = self._store.rows(number)
        if there is not None:
            self._rows += there
            return
        network = _network(pl_module)
        assert_eval(network)
        with torch.inference_mode(False):
            x, y, index = (part.clone() for part in batch)
            noise = Noise(sampling.keys(index, seed=self.seed))
            block = FullBlock(network, x, y, index, noise, _block_size(trainer))
            columns = self.measure(block)
        self._rows += len(columns["index"])
        with writing(self._folder, f"{self.name} of block {number}"):
            self._store.write_columns(number, columns)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Merges the rows of all processes, writes the figures and draws them."""
        trainer.strategy.barrier()  # every part is on disk
        counts = torch.tensor([self._samples, self._rows], device=pl_module.device)
        samples, rows = trainer.strategy.reduce(counts, reduce_op="sum").tolist()
        if trainer.is_global_zero:
            with writing(self._folder, f"{self.name}.parquet"):
                merged = self._store.merge()
            if merged.num_rows != rows:
                raise RuntimeError(
                    f"{merged.num_rows} of {rows} rows of {self.name}: is the folder shared by all processes?"
                )
            columns = {name: merged[name].to_numpy(zero_copy_only=False) for name in merged.column_names}
            protocol = {
                "samples": samples,
                "seed": self.seed,
                "block_size": _block_size(trainer),
                "dtype": str(pl_module.dtype),
                "device": str(pl_module.device),
                "processes": trainer.world_size,
            }
            kind = f"{type(self).__module__}.{type(self).__qualname__}"
            own = self.summarise(columns)
            self._report(trainer, {"measurement": kind, **self.provenance, "protocol": protocol, **own})
            self._store.clear()
        trainer.strategy.barrier()

    def _report(self, trainer: pl.Trainer, results: dict[str, Any]) -> None:
        path = self._folder / f"{self.name}.json"
        text = json.dumps(results, indent=2, ensure_ascii=False)
        with writing(self._folder, path.name):
            path.write_text(_NUMBERS.sub(lambda part: " ".join(part[0].split()), text) + "\n")
        figure = self.draw({Path(str(results.get("run") or "run")).parent.name or "run": results})
        with writing(self._folder, f"{self.name}.png"):
            figure.savefig(self._folder / f"{self.name}.png", dpi=120)
        log_figure(trainer.loggers, f"test/{self.name}", figure, trainer.global_step)
        table = results.get(TABLE, {})
        for logger in trainer.loggers:
            logger.log_metrics({f"test/{key}": value for key, value in table.items()}, step=trainer.global_step)
        _show(self.name, table)
        print(f"results: {path}")

    @property
    def _store(self) -> PartStore:
        return PartStore(self._folder / f"{self.name}.parquet")


def _network(pl_module: pl.LightningModule) -> nn.Module:
    network = getattr(pl_module, "network", pl_module)
    assert isinstance(network, nn.Module)
    return network


def _block_size(trainer: pl.Trainer) -> int:
    size: int = trainer.datamodule.eval_batch_size  # type: ignore[attr-defined]
    return size


def _show(name: str, table: Mapping[str, float]) -> None:
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=name, title_justify="left")
    shown.add_column("")
    shown.add_column("value", justify="right")
    for key, value in table.items():
        shown.add_row(key, f"{value:.4g}")
    Console(width=120).print(shown)
