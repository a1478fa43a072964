"""The ratio while a network trains: what a fit leaves, and that it trains as if nobody had looked."""

import contextlib
import csv
from types import SimpleNamespace

import pytest
import torch
from digit_runs import digits, trainer, untrained
from lightning.pytorch import Callback
from matplotlib.figure import Figure
from torch import nn

from lit_robust.attacks import PGD
from lit_robust.callbacks import Checkpoints, psr_progress
from lit_robust.callbacks.layer_psr import LayerPSR
from lit_robust.callbacks.psr_figure import psr_epochs_figure
from lit_robust.callbacks.psr_progress import PSRProgress
from lit_robust.errors import UserError
from lit_robust.evaluation.full_block import FullBlock
from lit_robust.loggers import MetricsFile
from lit_robust.nn import Pipeline
from lit_robust.regimes import Natural
from lit_robust.sampling import Noise, keys
from lit_robust.threat import ThreatModel

ATTACK = PGD(threat=ThreatModel(0.1), steps=2)


class Stop(Callback):
    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_epoch_start(self, trainer, module):
        if trainer.current_epoch == self.epoch:
            raise KeyboardInterrupt


class Careless(nn.Module):
    """Draws from torch's generator in eval mode too, drops in train mode, and normalises batches."""

    def __init__(self):
        super().__init__()
        self.norm, self.drop = nn.BatchNorm2d(1), nn.Dropout(0.1)

    def forward(self, x):
        return self.drop(self.norm(x + 0.01 * torch.rand_like(x)))


@pytest.fixture
def undrawn(monkeypatch):
    """Empty pictures, which are quicker."""
    monkeypatch.setattr(psr_progress, "psr_epochs_figure", lambda history, title: Figure())


def fit(folder, *callbacks, path=None, network=None, data=None, **options):
    folder.mkdir(exist_ok=True)
    torch.manual_seed(5)
    module = Natural(network or untrained(), optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    short = {"max_epochs": 3, "limit_train_batches": 2, "limit_val_batches": 1}
    run = trainer(folder, *callbacks, enable_checkpointing=True, **{**short, **options})
    run.fit(module, datamodule=data or digits(), ckpt_path=path, weights_only=path is not None)
    return run, module


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row.get("psr/conv1")]


def test_a_fit_leaves_the_levels_of_the_first_validation_images(tmp_path):
    progress = PSRProgress(attack=ATTACK, images=90, seed=2)
    run, module = fit(tmp_path, progress, logger=MetricsFile(tmp_path))
    data = digits(eval_batch_size=90)
    index = data.split[1][:90]
    measurement = LayerPSR(attack=ATTACK, norms=["l2"], seed=2)
    measurement.check(module.network, data)
    x, y = data.images(train=True).x[index].float() / 255, data.images(train=True).y[index]
    given = FullBlock(module.network.eval(), x, y, index, Noise(keys(index, seed=2)), 90)
    columns = {name: column.numpy() for name, column in measurement.measure(given).items()}
    expected = measurement.summarise(columns)["table"]
    assert list(expected) == ["psr/conv1", "psr/conv2"]
    for name, level in expected.items():
        assert float(run.callback_metrics[name]) == pytest.approx(level, abs=1e-3)
    assert [int(row["epoch"]) for row in rows(tmp_path)] == [0, 1, 2]
    assert float(rows(tmp_path)[-1]["psr/conv2"]) == pytest.approx(expected["psr/conv2"], abs=1e-3)
    assert (tmp_path / "psr_progress.png").stat().st_size > 5000


def test_training_goes_on_as_without_it(tmp_path, undrawn):
    weights = []
    for callbacks in ([], [PSRProgress(attack=ATTACK, images=10)]):
        torch.manual_seed(1)
        network = Pipeline([Careless(), untrained()])
        _, module = fit(tmp_path / str(len(callbacks)), *callbacks, network=network)
        assert network.training
        assert all(parameter.requires_grad for parameter in network.parameters())
        weights.append(module.state_dict())
    assert list(weights[0]) == list(weights[1])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_resumed_run_has_every_epoch_once(tmp_path, undrawn):
    def made(folder, keep_below=None):
        progress = PSRProgress(attack=ATTACK, images=20)
        return progress, [progress, Checkpoints(select="last")], MetricsFile(folder, keep_below)

    whole, callbacks, logger = made(tmp_path / "whole")
    (tmp_path / "whole").mkdir()
    fit(tmp_path / "whole", *callbacks, logger=logger)
    (tmp_path / "cut").mkdir()
    _, callbacks, logger = made(tmp_path / "cut")
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        fit(tmp_path / "cut", *callbacks, Stop(2), logger=logger)
    path = tmp_path / "cut" / "checkpoints" / "last.ckpt"
    cut, callbacks, logger = made(tmp_path / "cut", keep_below=torch.load(path, weights_only=True)["global_step"])
    fit(tmp_path / "cut", *callbacks, logger=logger, path=path)
    assert [epoch for epoch, _ in cut.state_dict()["history"]] == [1, 2, 3]
    assert cut.state_dict() == whole.state_dict()
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")


@pytest.mark.parametrize(("every", "epochs"), [(2, [2, 4, 5]), (9, [5]), (1, [1, 2, 3, 4, 5])])
def test_it_looks_every_n_epochs_and_at_the_end(every, epochs, tmp_path, undrawn):
    progress = PSRProgress(attack=ATTACK, images=5, every_n_epochs=every)
    fit(tmp_path, progress, max_epochs=5, limit_train_batches=1)
    assert [epoch for epoch, _ in progress.state_dict()["history"]] == epochs


def test_without_a_validation_part_it_looks_at_training_images(tmp_path, undrawn, monkeypatch):
    seen = []
    measure = LayerPSR.measure
    monkeypatch.setattr(LayerPSR, "measure", lambda self, given: seen.append(given) or measure(self, given))
    data = digits(val_split=0, eval_batch_size=4)
    fit(tmp_path, PSRProgress(attack=ATTACK, images=6), data=data, max_epochs=1)
    assert torch.equal(torch.cat([given.index for given in seen]), data.split[0][:6])
    assert [given.size for given in seen] == [4, 4]
    stored = data.images(train=True)
    for given in seen:
        assert torch.equal(given.x, stored.x[given.index].float() / 255)
        assert torch.equal(given.y, stored.y[given.index])


def test_loggers_that_show_figures_get_it(tmp_path, undrawn, monkeypatch):
    shown = []
    monkeypatch.setattr(psr_progress, "log_figure", lambda *given: shown.append(given[1::2]))
    fit(tmp_path, PSRProgress(attack=ATTACK, images=5))
    assert shown == [("train/psr", 2), ("train/psr", 4), ("train/psr", 6)]


def test_other_processes_take_what_the_first_has_found(monkeypatch):
    def logged(levels, sync_dist):
        shown.update(levels)

    shown, progress = {}, PSRProgress(attack=ATTACK)
    monkeypatch.setattr(progress, "_levels", None)  # not to be called
    monkeypatch.setattr(progress, "_draw", None)
    strategy = SimpleNamespace(broadcast=lambda own: own | {"psr/conv1": -12.0})
    other = SimpleNamespace(current_epoch=4, max_epochs=9, is_global_zero=False, strategy=strategy, datamodule=None)
    progress.on_train_epoch_end(other, SimpleNamespace(log_dict=logged))
    assert shown == {"psr/conv1": -12.0}
    assert progress.state_dict() == {"history": [[5, {"conv1": -12.0}]]}


def test_the_picture_has_a_line_an_epoch():
    history = [{"epoch": 1, "psr": {"a": -20.0, "b": -10.0}}, {"epoch": 3, "psr": {"b": -5.0, "a": -15.0, "c": -1.0}}]
    axis, _ = psr_epochs_figure(history, "title").axes
    assert [text.get_text() for text in axis.get_xticklabels()] == ["b", "a", "c"]
    assert [line.get_ydata().tolist()[:2] for line in axis.lines] == [[-10, -20], [-5, -15]]
    assert len({line.get_color() for line in axis.lines}) == 2


def test_what_cannot_be_measured_is_refused_before_any_work(tmp_path):
    for options in ({"images": 0}, {"every_n_epochs": 0}):
        with pytest.raises(UserError, match="at least 1, got"):
            PSRProgress(attack=ATTACK, **options)
    with pytest.raises(UserError, match="no layer matches 'nowhere'"):
        fit(tmp_path, PSRProgress(attack=ATTACK, layers=["nowhere"]))
    with pytest.raises(UserError, match="PSRProgress needs a data module"):
        trainer(tmp_path, PSRProgress(attack=ATTACK)).fit(Natural(untrained()), train_dataloaders=[1])
    assert not (tmp_path / "psr_progress.png").exists()
