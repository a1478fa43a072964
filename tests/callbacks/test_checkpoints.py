"""Checkpoints: which are written, when, what they hold, and that a cut-short write leaves the old one whole."""

import random

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from digit_runs import digits, still, trained, trainer, untrained
from lightning.pytorch import Callback

from lit_robust import runs
from lit_robust.attacks import FGSM
from lit_robust.callbacks import AtomicCheckpointIO, Checkpoints, RobustEval
from lit_robust.errors import UserError
from lit_robust.regimes import Natural
from lit_robust.threat import ThreatModel


class Scored(Natural):
    """Its validation accuracies are given, and each epoch adds 1 to a weight that tells which epoch it was."""

    val_metrics = ("val/score",)

    def __init__(self, scores):
        super().__init__(untrained(), optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0))
        self.scores = scores
        self.network.register_buffer("epochs", torch.zeros(()))

    def on_train_epoch_start(self):
        self.network.epochs += 1

    def validation_step(self, batch, batch_idx):
        self.log("val/score", self.scores[self.current_epoch])


class Saves(Callback):
    """Keeps the names of what is written, and when."""

    def __init__(self, monkeypatch):
        self.names = []
        save = pl.Trainer.save_checkpoint

        def spied(trainer, path, *args, **kwargs):
            self.names.append((trainer.current_epoch, trainer.global_step, path.name))
            return save(trainer, path, *args, **kwargs)

        monkeypatch.setattr(pl.Trainer, "save_checkpoint", spied)


def fit(folder, regime, *callbacks, data=None, ckpt_path=None, **options):
    options = {"enable_checkpointing": True, "plugins": [AtomicCheckpointIO()], "limit_val_batches": 1, **options}
    run = trainer(folder, *callbacks, **options)
    run.fit(regime, datamodule=data or digits(), ckpt_path=ckpt_path, weights_only=True)
    return run


def epochs(path):
    return int(runs.network_weights(runs.load_checkpoint(path))["epochs"])


def test_the_best_is_written_when_the_metric_improves_and_the_last_after_each_epoch(tmp_path, monkeypatch):
    saves = Saves(monkeypatch)
    scores = [0.3, 0.2, 0.3, 0.5, 0.4]
    fit(tmp_path, Scored(scores), Checkpoints(monitor="val/score"), max_epochs=5)
    assert [epoch for epoch, _, name in saves.names if name == "best.ckpt"] == [0, 3]
    assert [epoch for epoch, _, name in saves.names if name == "last.ckpt"] == [0, 1, 2, 3, 4]
    folder = tmp_path / "checkpoints"
    assert {p.name for p in folder.iterdir()} == {"best.ckpt", "last.ckpt"}
    assert epochs(folder / "best.ckpt") == 4
    assert epochs(folder / "last.ckpt") == 5
    assert not (tmp_path / "lightning_logs").exists()


def test_select_last_keeps_no_best(tmp_path):
    fit(tmp_path, Scored([0.1, 0.2]), Checkpoints(monitor="val/score", select="last"), max_epochs=2)
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"last.ckpt"}
    fit(tmp_path / "2", Scored([0.1]), Checkpoints(monitor="nonsense", select="last"))  # none is chosen by a metric


def test_the_best_of_a_resumed_run_is_the_best_of_the_whole(tmp_path, monkeypatch):
    folder = tmp_path / "checkpoints"
    fit(tmp_path, Scored([0.5, 0.1]), Checkpoints(monitor="val/score"), max_epochs=2)
    saves = Saves(monkeypatch)
    scores = [9, 9, 0.4, 0.6]
    fit(tmp_path, Scored(scores), Checkpoints(monitor="val/score"), max_epochs=4, ckpt_path=folder / "last.ckpt")
    assert [epoch for epoch, _, name in saves.names if name == "best.ckpt"] == [3]
    assert epochs(folder / "best.ckpt") == 4


def test_the_sanity_check_and_other_commands_write_nothing(tmp_path, monkeypatch):
    saves = Saves(monkeypatch)
    run = trainer(tmp_path, Checkpoints(monitor="val/score"), enable_checkpointing=True)
    run.validate(Scored([0.5]), datamodule=digits(), verbose=False)
    run.test(still(trained()), datamodule=digits(), verbose=False)
    assert saves.names == []
    fit(tmp_path, Scored([0.5]), Checkpoints(monitor="val/score"), num_sanity_val_steps=1)
    assert [name for _, _, name in saves.names] == ["best.ckpt", "last.ckpt"]
    assert all(step == 2 for _, step, _ in saves.names)


def test_best_without_a_validation_set_is_refused_before_any_work(tmp_path):
    with pytest.raises(UserError, match=r"select: best needs a validation set.*set checkpoints.select: last"):
        fit(tmp_path, still(untrained()), Checkpoints(), data=digits(val_split=0))
    assert not (tmp_path / "checkpoints").exists()
    fit(tmp_path, still(untrained()), Checkpoints(select="last"), data=digits(val_split=0))
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()


def test_an_unknown_metric_lists_what_there_is(tmp_path):
    message = r"checkpoints.monitor: no metric 'val/robsut'; validation gives val/acc, val/robust"
    evaluation = RobustEval(val_attack=FGSM(threat=ThreatModel("8/255")), val_samples=10)
    with pytest.raises(UserError, match=message):
        fit(tmp_path, still(untrained()), evaluation, Checkpoints(monitor="val/robsut"))


def test_the_default_monitors_clean_accuracy(tmp_path):
    run = fit(tmp_path, still(trained()), Checkpoints(), limit_val_batches=1.0)
    metric = runs.load_checkpoint(tmp_path / "checkpoints" / "best.ckpt")["lit_robust"]["metric"]
    assert metric == {"name": "val/acc", "value": float(run.callback_metrics["val/acc"])}


def test_a_robust_metric_that_is_not_measured_in_every_epoch_can_be_monitored(tmp_path, monkeypatch):
    measured = []
    evaluate = RobustEval._evaluate
    monkeypatch.setattr(
        RobustEval,
        "_evaluate",
        lambda self, module, *a, **o: measured.append(module.current_epoch) or evaluate(self, module, *a, **o),
    )

    def callbacks():
        attack = FGSM(threat=ThreatModel("8/255"))
        return RobustEval(val_attack=attack, val_samples=10, every_n_epochs=2), Checkpoints(monitor="val/robust")

    fit(tmp_path, still(trained()), *callbacks(), max_epochs=1)
    last = tmp_path / "checkpoints" / "last.ckpt"
    # The resumed run's first epoch is one of those without a measurement, as in a run that was never interrupted.
    run = fit(tmp_path, still(trained()), *callbacks(), max_epochs=4, ckpt_path=last)
    assert run.current_epoch == 4
    assert measured == [0, 2]


# --- within an epoch ---


def within(folder, monkeypatch, **options):
    saves = Saves(monkeypatch)
    every = options.pop("every_n_steps", 2)
    options = {"limit_train_batches": 7, **options}
    fit(folder, still(untrained()), Checkpoints(every_n_steps=every), **options)
    return [(step, name.removesuffix(".ckpt")) for _, step, name in saves.names]


def test_the_last_is_written_within_an_epoch_too(tmp_path, monkeypatch):
    expected = [(2, "last"), (4, "last"), (6, "last"), (7, "best"), (7, "last")]
    assert within(tmp_path, monkeypatch) == expected


def test_0_steps_is_the_end_of_the_epoch_alone(tmp_path, monkeypatch):
    assert within(tmp_path, monkeypatch, every_n_steps=0) == [(7, "best"), (7, "last")]


def test_not_between_the_steps_of_accumulated_gradients(tmp_path, monkeypatch):
    saved = within(tmp_path, monkeypatch, accumulate_grad_batches=4, limit_train_batches=9)
    assert saved == [(1, "last"), (2, "last"), (3, "best"), (3, "last")]


def test_not_before_a_validation(tmp_path, monkeypatch):
    saved = within(tmp_path, monkeypatch, val_check_interval=4, limit_train_batches=9)
    assert saved[:4] == [(2, "last"), (4, "best"), (6, "last"), (9, "last")]


def test_a_validation_by_the_clock_is_fine(tmp_path, monkeypatch):
    saved = within(tmp_path, monkeypatch, val_check_interval={"hours": 1}, limit_train_batches=5)
    assert (2, "last") in saved


# --- content ---


def test_files_are_read_weights_only_and_hold_what_a_resume_needs(tmp_path):
    fit(tmp_path, Natural(untrained()), Checkpoints(every_n_steps=1), max_epochs=2)
    for name in ("best.ckpt", "last.ckpt"):
        path = tmp_path / "checkpoints" / name
        content = torch.load(path, weights_only=True)
        assert {"state_dict", "optimizer_states", "loops", "lit_robust", "loss_terms"} <= set(content)
        assert set(content["lit_robust"]["generators"]) == {"torch", "cuda", "numpy", "python"}
        assert content["lit_robust"]["wandb_id"] is None
        runs.load_weights(untrained(), runs.network_weights(runs.load_checkpoint(path)), path)


def test_the_last_checkpoint_was_chosen_by_no_metric(tmp_path):
    fit(tmp_path, Scored([0.5, 0.1]), Checkpoints(monitor="val/score"), max_epochs=2)
    metrics = [
        runs.load_checkpoint(tmp_path / "checkpoints" / name)["lit_robust"]["metric"] for name in (runs.BEST, runs.LAST)
    ]
    assert metrics == [{"name": "val/score", "value": pytest.approx(0.5)}, None]


def test_a_resumed_run_draws_what_the_uninterrupted_one_draws(tmp_path):
    class Draws(Callback):
        def __init__(self):
            self.numbers = []

        def on_train_batch_end(self, *args):
            self.numbers.append((float(torch.rand(())), float(np.random.rand()), random.random()))

    def run(**options):
        draws = Draws()
        fit(tmp_path, still(untrained()), draws, Checkpoints(every_n_steps=2), limit_train_batches=3, **options)
        return draws.numbers

    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    whole = run(max_epochs=2)
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    first = run(max_epochs=1)
    assert first == whole[:3]
    torch.manual_seed(7)  # what another start has drawn
    np.random.seed(7)
    random.seed(7)
    assert run(max_epochs=2, ckpt_path=tmp_path / "checkpoints" / "last.ckpt") == whole[3:]


# --- the writer ---


def test_a_checkpoint_is_written_whole(tmp_path):
    AtomicCheckpointIO().save_checkpoint({"a": torch.arange(3)}, tmp_path / "new" / "x.ckpt")
    assert torch.load(tmp_path / "new" / "x.ckpt", weights_only=True)["a"].tolist() == [0, 1, 2]
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["x.ckpt"]


def test_a_write_that_fails_midway_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path, writer = tmp_path / "x.ckpt", AtomicCheckpointIO()
    writer.save_checkpoint({"a": torch.arange(3)}, path)
    old = path.read_bytes()

    def half(content, file):
        file.write(b"half")
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", half)
        with pytest.raises(OSError, match="no space"):
            writer.save_checkpoint({"a": torch.zeros(99)}, path)
        with pytest.raises(OSError, match="no space"):
            writer.save_checkpoint({"a": torch.zeros(99)}, tmp_path / "y.ckpt")
    assert path.read_bytes() == old
    assert not (tmp_path / "y.ckpt").exists()
    writer.save_checkpoint({"a": torch.ones(2)}, path)  # what is left over does not disturb
    assert torch.load(path, weights_only=True)["a"].tolist() == [1, 1]


def test_the_file_is_complete_on_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    events = []
    for name in ("fsync", "replace"):
        original = getattr(runs.os, name)
        monkeypatch.setattr(
            f"lit_robust.callbacks.checkpoints.os.{name}",
            lambda *args, name=name, original=original: events.append(name) or original(*args),
        )
    AtomicCheckpointIO().save_checkpoint({"a": 1}, tmp_path / "x.ckpt")
    assert events == ["fsync", "replace"]
