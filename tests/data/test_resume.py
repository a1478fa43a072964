"""A run that is interrupted anywhere and resumed sees the images, and gets the weights, of an uninterrupted one."""

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything

from lit_robust.data import Augment, Digits
from lit_robust.errors import UserError

BATCHES = 6  # of 256 in an epoch


class RunInterruptedError(Exception):
    pass


class Linear(LightningModule):
    def __init__(self, fails_at=None):
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)
        self.fails_at = fails_at

    def training_step(self, batch, batch_idx):
        if (self.current_epoch, batch_idx) == self.fails_at:
            raise RunInterruptedError
        x, y, _ = batch
        return F.cross_entropy(self.layer(x.flatten(1)), y)

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Recorder(Callback):
    """Notes every batch; saves a checkpoint in the given hook at the given (epoch, batch), and interrupts."""

    def __init__(self, path=None, hook=None, at=None):
        self.path, self.hook, self.at = path, hook, at
        self.batches = []

    def _save(self, trainer, hook, at):
        if (hook, at) == (self.hook, self.at):
            trainer.save_checkpoint(self.path)
            raise RunInterruptedError

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        x, _, index = batch
        self.batches.append((trainer.current_epoch, batch_idx, index.tolist(), x.double().sum().item()))

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self._save(trainer, "batch", (trainer.current_epoch, batch_idx))

    def on_validation_end(self, trainer, module):
        self._save(trainer, "validation", (trainer.current_epoch, trainer.fit_loop.batch_idx))

    def on_train_epoch_end(self, trainer, module):
        self._save(trainer, "epoch", (trainer.current_epoch, trainer.fit_loop.batch_idx))

    def on_exception(self, trainer, module, exception):
        if self.hook == "exception":
            self.batches.pop()  # the batch whose step failed
            trainer.save_checkpoint(self.path)


def fit(recorder, *, ckpt_path=None, fails_at=None, seed=3, batch_size=256, **options):
    seed_everything(seed, verbose=False)
    model = Linear(fails_at)
    trainer = Trainer(
        **({"max_epochs": 3} | options),
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[recorder],
    )
    trainer.fit(model, datamodule=Digits(batch_size=batch_size, augment=Augment(pad=1)), ckpt_path=ckpt_path)
    return model.layer.weight.detach()


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # restored afterwards, whatever seed_everything sets


pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:GPU available"),
    pytest.mark.filterwarnings("error:.*dataloader is not resumable"),
]


@pytest.mark.parametrize(
    ("hook", "at"),
    [
        ("batch", (0, 0)),
        ("batch", (1, 2)),
        ("batch", (1, BATCHES - 1)),
        ("validation", (1, BATCHES - 1)),
        ("epoch", (1, BATCHES - 1)),
        ("exception", (1, 2)),
    ],
)
@pytest.mark.parametrize("options", [{}, {"max_epochs": -1, "max_steps": 3 * BATCHES}], ids=["epochs", "steps"])
def test_a_resumed_run_equals_an_uninterrupted_one(hook, at, options, tmp_path):
    uninterrupted = Recorder()
    weights = fit(uninterrupted, **options)
    assert [batch[:2] for batch in uninterrupted.batches] == [(e, b) for e in range(3) for b in range(BATCHES)]

    path = str(tmp_path / "last.ckpt")
    before, after = Recorder(path, hook, at), Recorder()
    with pytest.raises(RunInterruptedError):
        fit(before, fails_at=at if hook == "exception" else None, **options)
    resumed = fit(after, ckpt_path=path, **options)

    assert 0 < len(before.batches) < 3 * BATCHES
    assert before.batches + after.batches == uninterrupted.batches
    assert torch.equal(resumed, weights)


def test_validation_within_the_epoch_does_not_disturb(tmp_path):
    uninterrupted, before, after = Recorder(), Recorder(str(tmp_path / "last.ckpt"), "validation", (1, 1)), Recorder()
    weights = fit(uninterrupted, val_check_interval=2)
    with pytest.raises(RunInterruptedError):
        fit(before, val_check_interval=2)
    resumed = fit(after, val_check_interval=2, ckpt_path=before.path)
    assert before.batches + after.batches == uninterrupted.batches
    assert len(before.batches) == BATCHES + 2
    assert torch.equal(resumed, weights)


def test_epochs_differ_and_each_has_every_image_once():
    recorder = Recorder()
    fit(recorder)
    epochs = [[i for e, _, index, _ in recorder.batches if e == epoch for i in index] for epoch in range(3)]
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(epochs[2]) == Digits().split[0].tolist()


@pytest.mark.parametrize("change", [{"seed": 4}, {"batch_size": 128}])
def test_resuming_within_an_epoch_with_other_batches_is_refused(change, tmp_path):
    before = Recorder(str(tmp_path / "last.ckpt"), "batch", (1, 2))
    with pytest.raises(RunInterruptedError):
        fit(before)
    with pytest.raises(UserError, match="saved within an epoch of other batches"):
        fit(Recorder(), ckpt_path=before.path, **change)


def test_overfitting_is_to_the_same_batches():
    recorder = Recorder()
    fit(recorder, overfit_batches=2)
    assert [batch[2] for batch in recorder.batches] == [batch[2] for batch in recorder.batches[:2]] * 3


def test_without_a_validation_part_there_is_no_validation():
    recorder = Recorder()
    seed_everything(3, verbose=False)
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[recorder],
    )  # fmt: skip
    trainer.fit(Linear(), datamodule=Digits(batch_size=500, val_split=0))
    assert trainer.num_val_batches in ([], [0])
    assert sum(len(batch[2]) for batch in recorder.batches) == 1437
