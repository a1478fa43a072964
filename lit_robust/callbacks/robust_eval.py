"""Robust accuracy of any classifier: on a part of the validation set while it trains, on the test set in `test`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from lit_robust.attacks import Attack
from lit_robust.attacks.decision import bound_to, wants_images
from lit_robust.callbacks.evaluable import check_evaluation
from lit_robust.callbacks.robust_report import adversarial_examples, report
from lit_robust.callbacks.subject import Batch, data_of, first_blocks, network_of
from lit_robust.errors import UserError
from lit_robust.evaluation import BlockResult, SampleStore, evaluate_block, suite, summarise
from lit_robust.evaluation.adversarials import AdversarialStore
from lit_robust.evaluation.budget import seconds
from lit_robust.evaluation.design import design_notes
from lit_robust.evaluation.fast_copy import fast_copy
from lit_robust.evaluation.screening import Screening
from lit_robust.evaluation.store import writing
from lit_robust.evaluation.verdict import CLEAN
from lit_robust.evaluation.verification import write_verification


class RobustEval(pl.Callback):
    """Attacks a classifier and says how often it stays right, which is at most its robustness.

    In `test` each attack runs on the whole test set; the folder then holds `results.json`, `per_sample.parquet`,
    `adversarials.npz`, `adversarial.png`, after a minimum-norm attack `minimum_norms.png`, and, where the network's
    config is known, `verify.py`. Each block is on disk once it is done, so that an interrupted test can go on.
    While training, `val_attack` runs on the first `val_samples` of the validation set and is logged as `val/robust`.

    Args:
        attacks: Attacks by name, for `test`; the members of an `AutoAttack` become rows of their own, in a cascade, and
            so do the backward passes of the network that are the strongest for an `Adaptive`.
        val_attack: Attack on the validation set while training; None for none.
        val_samples: Samples of the validation set that it runs on, the same every time.
        every_n_epochs: Epochs between these.
        seed: Seed of the evaluation's noise.
        cascade: An attack runs only on what those of the same threat model before it left unbroken; the worst case is
            the same, and the single figures are then of the cascade so far.
        pictures: Examples in the picture.
        draws: Draws of a random network that judge each adversarial, after as many that choose the strongest attack.
        budget: Time that a test is to take, such as `30min`; it then runs on as many of the first test images as this
            is enough for if none breaks early, counting the network's passes alone.
        search_copy: Whether searches in `test` run on a faster copy of the network (`fast_copy`); what they claim is
            confirmed on the network itself.

    Raises:
        UserError: If an attack is called `clean`, or a number is out of range.

    Attributes:
        provenance: Where the weights come from, for `results.json`.
        subject: The network's part of a config and its checkpoint, for `verify.py`; None leaves the script out.
        goes_on: Whether the test goes on with the blocks that are in its folder; they are removed otherwise.
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
        draws: int = 20,
        budget: str | None = None,
        search_copy: bool = True,
    ) -> None:
        super().__init__()
        self._given = dict(attacks or {})
        self.attacks, self._cascades = suite.rows(self._given, cascade=cascade)
        self.val_attack = val_attack
        self.val_samples = val_samples
        self.every_n_epochs = every_n_epochs
        self.seed = seed
        self.cascade = cascade
        self.pictures = pictures
        self.draws = draws
        self.budget = budget
        self.search_copy = search_copy
        self._copies: list[nn.Module | None] = []  # the one copy, once it has been tried
        self._screening: Screening | None = None  # of the test that runs
        self.provenance: dict[str, Any] = {}
        self.subject: tuple[dict[str, Any], str | None] | None = None
        self.goes_on = False
        self.running = ""
        self.listeners: list[Callable[[str], None]] = []  # told which attack runs, such as the progress bar
        self._folder = Path()
        self._samples = 0
        self._measured: int | None = None  # epoch of the last measurement on the validation set
        if budget is not None:
            seconds(budget)
        if CLEAN in self.attacks:
            raise UserError(f"an attack cannot be called {CLEAN!r}, which is the row of clean images")
        if val_samples < 1 or every_n_epochs < 1 or draws < 1 or pictures < 0:
            raise UserError(
                "expected val_samples, every_n_epochs and draws above 0 and pictures of 0 or more, got "
                f"{val_samples}, {every_n_epochs}, {draws} and {pictures}"
            )

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuses what could not be measured, before any work; see `check`."""
        self._folder = Path(trainer.strategy.broadcast(str(trainer.default_root_dir)))
        self.check(network_of(pl_module), data_of(trainer).image_shape, str(trainer.precision))

    @property
    def given(self) -> dict[str, Attack]:
        """The attacks of a test by name, as they were given."""
        return dict(self._given)

    def check(self, network: nn.Module, image_shape: tuple[int, ...], precision: str) -> None:
        """Refuses what could not be measured; arguments and errors as for `check_evaluation`."""
        check_evaluation(self._given.values(), self.val_attack, network, image_shape, precision)

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
        data = data_of(trainer)
        n, device = len(batch[0]), batch[0].device
        position = torch.arange(n, device=device) + self._block_number(trainer, batch_idx) * data.eval_batch_size
        chosen = position < self.val_samples
        robust = 0.0
        if chosen.any():
            result = self._evaluate(pl_module, batch, {"val": self.val_attack}, data.eval_batch_size, draws=1)
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
        """Starts from nothing, also in a second test, unless it goes on with what is in the folder."""
        self._samples, self._copies, self._cascades = 0, [], {}
        pool = data_of(trainer).images(train=False).x if any(map(wants_images, self._given.values())) else None
        given = {name: attack if pool is None else bound_to(attack, pool) for name, attack in self._given.items()}
        self._screening = Screening(given, network_of(pl_module), self._folder)
        if trainer.is_global_zero:
            if not self.goes_on:
                SampleStore(self._folder).clear()
                AdversarialStore(self._folder).clear()
                self._screening.clear()
            size = data_of(trainer).eval_batch_size
            self._screening.run(
                lambda count: first_blocks(trainer, pl_module, count),
                lambda batch, attacks: self._evaluate(pl_module, batch, attacks, size, self.draws),
            )
        trainer.strategy.barrier()  # what the first process has screened is on disk
        self.attacks, self._cascades = suite.rows(self._screening.rows(self.seed), cascade=self.cascade)

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Attacks the block and writes its part of the results, unless they are there already.

        Raises:
            UserError: If the disk is full or cannot be written.
        """
        self._samples += len(batch[0])
        number, store = self._block_number(trainer, batch_idx), SampleStore(self._folder)
        if store.rows(number) is not None:
            return
        result = self._evaluate(pl_module, batch, self.attacks, data_of(trainer).eval_batch_size, self.draws)
        with writing(self._folder, f"the results of block {number}"):
            AdversarialStore(self._folder).write(number, result, self.attacks)
            store.write(number, result)  # last: it says that the block is done

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Merges the results of all processes, writes the figures, prints them and draws the picture."""
        trainer.strategy.barrier()  # every part is on disk
        device = pl_module.device
        samples = int(trainer.strategy.reduce(torch.tensor(self._samples, device=device), reduce_op="sum"))
        if trainer.is_global_zero:
            store, adversarials = SampleStore(self._folder), AdversarialStore(self._folder)
            size = data_of(trainer).eval_batch_size
            with writing(self._folder, "the results of all blocks"):
                table = store.merge()
                adversarials.merge()
            protocol = {
                "seed": self.seed,
                "block_size": size,
                "cascade": self.cascade,
                "leave": not store.random,
                "random_network": store.random,
                **({"draws": self.draws} if store.random else {}),
                "dtype": str(pl_module.dtype),
                "device": str(pl_module.device),
                "processes": trainer.world_size,
            }
            results = summarise(
                table,
                self.attacks,
                seconds=store.seconds,
                protocol=protocol,
                samples=samples,
                cascades=self._cascades,
            )
            if tables := self._screening.tables() if self._screening else {}:
                results["screening"] = tables
            if notes := design_notes(network_of(pl_module), self.attacks):
                results["notes"] = notes
            if self.subject is not None and not store.random:  # on other draws others are broken
                write_verification(self._folder, *self.subject, size)
            shown = adversarial_examples(pl_module, adversarials, self.attacks, data_of(trainer).classes, self.pictures)
            report(trainer, self._folder, {**self.provenance, **results}, self.attacks, shown)
            for done in (store, adversarials, self._screening):
                if done is not None:
                    done.clear()
        trainer.strategy.barrier()

    def _evaluate(
        self,
        pl_module: pl.LightningModule,
        batch: Batch,
        attacks: Mapping[str, Attack],
        size: int,
        draws: int,
    ) -> BlockResult:
        def before(name: str) -> None:
            self.running = attacks[name].label
            for show in self.listeners:
                show(self.running)

        with torch.inference_mode(False):
            x, y, index = batch
            copy = self._copy(pl_module, x) if pl_module.trainer.testing and self.search_copy else None
            result = evaluate_block(
                pl_module,
                x,
                y,
                index.clone(),
                attacks,
                size=size,
                seed=self.seed,
                cascades=self._cascades,
                draws=draws,
                copy=copy,
                before=before,
            )
        self.running = ""
        return result

    def _copy(self, pl_module: pl.LightningModule, x: Tensor) -> nn.Module | None:
        """The faster copy, made once for a test."""
        if not self._copies:
            network = network_of(pl_module)
            self._copies.append(None if network is pl_module else fast_copy(network, x.clone()))
        return self._copies[0]

    @staticmethod
    def _block_number(trainer: pl.Trainer, batch_idx: int) -> int:
        """Number of a process's block in the data set: blocks are dealt to processes in turn."""
        return batch_idx * trainer.world_size + trainer.global_rank
