"""Robust accuracy of any classifier: on a part of the validation set while it trains, on the test set in `test`."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from lit_robust.attacks import Attack
from lit_robust.attacks.minimum_norm import counted_in, minimum_norm
from lit_robust.errors import UserError
from lit_robust.evaluation import BlockResult, SampleStore, evaluate_block, summarise
from lit_robust.evaluation.block import CLEAN
from lit_robust.evaluation.norms_figure import norms_figure
from lit_robust.evaluation.picture import Example, adversarial_figure, confidence
from lit_robust.evaluation.table import results_table
from lit_robust.loggers import log_figure

Batch = tuple[Tensor, Tensor, Tensor]  # images (N, C, H, W), labels (N,), indices (N,)
RESULTS = "results.json"
PICTURE = "adversarial.png"
NORMS_PICTURE = "minimum_norms.png"


class RobustEval(pl.Callback):
    """Attacks a classifier and says how often it stays right, which is at most its robustness.

    In `test` each attack runs on the whole test set; the folder then holds `results.json`, `per_sample.parquet`,
    `adversarial.png` and, after a minimum-norm attack, `minimum_norms.png`. While training, `val_attack` runs on the
    first `val_samples` of the validation set and is logged as `val/robust`.

    Args:
        attacks: Attacks by name, for `test`.
        val_attack: Attack on the validation set while training; None for none.
        val_samples: Samples of the validation set that it runs on, the same every time.
        every_n_epochs: Epochs between these.
        seed: Seed of the evaluation's noise.
        cascade: An attack runs only on what those of the same threat model before it left unbroken; the worst case is
            the same, and the single figures are then of the cascade so far.
        pictures: Examples in the picture.

    Raises:
        UserError: If an attack is called `clean`, or a number is out of range.
    """

    def __init__(
        self,
        attacks: Mapping[str, Attack] | None = None,
        val_attack: Attack | None = None,
        val_samples: int = 256,
        every_n_epochs: int = 1,
        seed: int = 0,
        cascade: bool = False,
        pictures: int = 4,
    ) -> None:
        super().__init__()
        self.attacks = dict(attacks or {})
        self.val_attack = val_attack
        self.val_samples = val_samples
        self.every_n_epochs = every_n_epochs
        self.seed = seed
        self.cascade = cascade
        self.pictures = pictures
        self.provenance: dict[str, Any] = {}
        self.running = ""
        self.listeners: list[Callable[[str], None]] = []  # told which attack runs, such as the progress bar
        self._folder = Path()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._examples: list[Example] = []
        self._random = False
        self._samples = 0
        self._measured: int | None = None  # epoch of the last measurement on the validation set
        if CLEAN in self.attacks:
            raise UserError(f"an attack cannot be called {CLEAN!r}, which is the row of clean images")
        if val_samples < 1 or every_n_epochs < 1 or pictures < 0:
            raise UserError(
                "expected val_samples and every_n_epochs above 0 and pictures of 0 or more, got "
                f"{val_samples}, {every_n_epochs} and {pictures}"
            )

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuses what could not be measured, before any work.

        Raises:
            UserError: If a radius holds every image, an attack is targeted, the attack on the validation set has no
                radius, or the weights are 16-bit.
        """
        if str(trainer.precision) in ("16-true", "bf16-true"):
            raise UserError(
                f"robust accuracy needs float32 or float64 weights: trainer.precision {trainer.precision} rounds "
                "adversarial images out of the ball; train with bf16-mixed"
            )
        data = _data(trainer)
        self._folder = Path(trainer.strategy.broadcast(str(trainer.default_root_dir)))
        for attack in [*self.attacks.values(), *([self.val_attack] if self.val_attack else [])]:
            counted_in(attack).check_shape(data.image_shape)
            if attack.targeted:
                raise UserError("targeted attacks need classes to reach, which evaluation does not have")
        if self.val_attack is not None and counted_in(self.val_attack).eps is None:
            raise UserError("val_attack breaks images at any distance, which val/robust cannot tell; set its eps")

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Attacks the block if it holds some of the first `val_samples`."""
        if self.val_attack is None or trainer.sanity_checking:
            return
        since = None if self._measured is None else trainer.current_epoch - self._measured
        if trainer.state.fn == "fit" and since is not None and 0 < since < self.every_n_epochs:
            return
        self._measured = trainer.current_epoch
        data = _data(trainer)
        n, device = len(batch[0]), batch[0].device
        position = torch.arange(n, device=device) + self._block_number(trainer, batch_idx) * data.eval_batch_size
        chosen = position < self.val_samples
        robust = 0.0
        if chosen.any():
            result = self._evaluate(pl_module, batch, {"val": self.val_attack}, data.eval_batch_size)
            robust = float((~result.verdicts["val"].broken[chosen]).float().mean())
        # Every process logs every block, with weight 0 where nothing was chosen, or the others would wait for it.
        pl_module.log("val/robust", robust, batch_size=int(chosen.sum()), on_epoch=True, sync_dist=True, prog_bar=True)

    def state_dict(self) -> dict[str, Any]:
        """When the validation set was last attacked."""
        return {"measured": self._measured}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores when the validation set was last attacked."""
        self._measured = state_dict["measured"]

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts from nothing, also in a second test."""
        self._seconds.clear()
        self._examples, self._samples, self._random = [], 0, False

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Attacks the block and writes its part of the per-sample results."""
        data = _data(trainer)
        result = self._evaluate(pl_module, batch, self.attacks, data.eval_batch_size)
        self._samples += len(batch[0])
        SampleStore(self._folder).write(self._block_number(trainer, batch_idx), result)
        for name, verdict in result.verdicts.items():
            self._seconds[name] += verdict.seconds
        if len(self._examples) < self.pictures:
            self._examples += self._find_examples(pl_module, batch[0], result, data.classes)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Merges the results of all processes, writes the figures, prints them and draws the picture."""
        trainer.strategy.barrier()  # every part is on disk
        device = pl_module.device
        seconds = {
            name: float(trainer.strategy.reduce(torch.tensor(self._seconds[name], device=device), reduce_op="sum"))
            for name in self.attacks
        }
        samples = int(trainer.strategy.reduce(torch.tensor(self._samples, device=device), reduce_op="sum"))
        if trainer.is_global_zero:
            data = _data(trainer)
            protocol = {
                "seed": self.seed,
                "block_size": data.eval_batch_size,
                "cascade": self.cascade,
                "leave": not self._random,
                "random_network": self._random,
                "dtype": str(pl_module.dtype),
                "device": str(pl_module.device),
                "processes": trainer.world_size,
            }
            table = SampleStore(self._folder).merge()
            results = summarise(table, self.attacks, seconds=seconds, protocol=protocol, samples=samples)
            self._report(trainer, {**self.provenance, **results})
        trainer.strategy.barrier()

    def _evaluate(
        self,
        pl_module: pl.LightningModule,
        batch: Batch,
        attacks: Mapping[str, Attack],
        size: int,
    ) -> BlockResult:
        def before(name: str) -> None:
            self.running = attacks[name].label
            for show in self.listeners:
                show(self.running)

        with torch.inference_mode(False):
            options: dict[str, Any] = {"size": size, "seed": self.seed, "cascade": self.cascade, "before": before}
            x, y, index = batch
            result = evaluate_block(pl_module, x, y, index.clone(), attacks, **options)
        self._random |= result.random
        self.running = ""
        return result

    def _report(self, trainer: pl.Trainer, results: dict[str, Any]) -> None:
        from rich.console import Console

        folder = self._folder
        (folder / RESULTS).write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")
        name = self._pictured
        if name is not None:
            figure = adversarial_figure(self._examples[: self.pictures], f"{name}: {self.attacks[name]}")
            figure.savefig(folder / PICTURE, dpi=120)
            log_figure(trainer.loggers, "test/adversarial", figure, trainer.global_step)
        if any(minimum_norm(attack) is not None for attack in self.attacks.values()):
            run = "/".join(Path(results.get("run") or results.get("title", "test")).parts[-2:])
            figure = norms_figure({run: results})
            figure.savefig(folder / NORMS_PICTURE, dpi=120)
            log_figure(trainer.loggers, "test/minimum_norms", figure, trainer.global_step)
        figures = results["attacks"].items()
        flat = {f"test/{name}": figure["accuracy"] for name, figure in figures if "accuracy" in figure}
        means = {name: figure.get("minimum_norm", {}).get("mean") for name, figure in figures}
        flat |= {f"test/{name} mean norm": mean for name, mean in means.items() if mean is not None}
        flat |= {f"test/worst {threat}": figure["accuracy"] for threat, figure in results["worst_case"].items()}
        for logger in trainer.loggers:
            logger.log_metrics(flat, step=trainer.global_step)
        Console(width=120).print(results_table(results, str(results.get("title", "test"))))
        print(f"results: {folder / RESULTS}")

    def _find_examples(
        self, pl_module: pl.LightningModule, x: Tensor, result: BlockResult, classes: Sequence[str]
    ) -> list[Example]:
        name = self._pictured
        if name is None:
            return []
        verdict = result.verdicts[name]
        rows = (verdict.broken & (result.prediction == result.label)).nonzero().flatten()[: self.pictures]
        if not len(rows):
            return []
        with torch.no_grad():
            clean, attacked = pl_module(x[rows]), pl_module(verdict.x_adv[rows])
        both = zip(confidence(clean, classes), confidence(attacked, classes), strict=True)
        return [
            Example(x[row].cpu(), verdict.x_adv[row].cpu(), before, after)
            for row, (before, after) in zip(rows, both, strict=True)
        ]

    @property
    def _pictured(self) -> str | None:
        """The last adversary."""
        return next((name for name, attack in reversed(self.attacks.items()) if attack.adversarial), None)

    @staticmethod
    def _block_number(trainer: pl.Trainer, batch_idx: int) -> int:
        """Number of a process's block in the data set: blocks are dealt to processes in turn."""
        return batch_idx * trainer.world_size + trainer.global_rank


def _data(trainer: pl.Trainer) -> Any:  # noqa: ANN401 - a data module of lit_robust.data, which callbacks do not import
    data = getattr(trainer, "datamodule", None)
    if data is None:
        raise UserError("RobustEval deals the data in fixed blocks and needs a data module of lit_robust.data")
    return data
