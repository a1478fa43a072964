"""Regimes under a real trainer: what is logged, what is trained, which noise is drawn."""

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback
from torch import nn
from trained import Spy, digits, small_cnn, trainer

from lit_robust import sampling
from lit_robust.attacks import PGD, RFGSM
from lit_robust.errors import UserError
from lit_robust.regimes import TRADES, AdversarialTraining, Natural, NonFiniteLossError, RobustClassifier
from lit_robust.schedules import StepDecay, Triangular
from lit_robust.threat import ThreatModel

LINF = ThreatModel("16/255")
REGIMES = {
    "natural": (lambda **o: Natural(small_cnn(), **o), {"ce"}),
    "adversarial": (lambda **o: AdversarialTraining(small_cnn(), attack=RFGSM(threat=LINF), **o), {"ce"}),
    "trades": (lambda **o: TRADES(small_cnn(), attack=PGD(threat=LINF, steps=2, start="gaussian"), **o), {"ce", "kl"}),
}
STILL = {"optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.0)}


class Watch(Callback):
    """Keeps the batches, and the optimizer's settings at each step."""

    def __init__(self):
        self.batches, self.rates, self.momenta = [], [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.batches.append((trainer.current_epoch, *(t.clone() for t in batch)))

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.rates.append(optimizer.param_groups[0]["lr"])
        self.momenta.append(optimizer.param_groups[0].get("momentum"))


@pytest.mark.parametrize("make", REGIMES)
def test_every_term_is_logged_and_the_network_trains(make, tmp_path):
    build, terms = REGIMES[make]
    regime, before = build(), small_cnn().state_dict()
    watch = Watch()
    run = trainer(tmp_path, watch, max_epochs=2)
    run.fit(regime, datamodule=digits())
    logged = {name for name in run.callback_metrics if name.startswith("train/")}
    assert logged == {"train/loss"} | {f"train/{term}" for term in terms}
    assert {"val/acc", "val/loss"} <= set(run.callback_metrics)
    assert len(watch.batches) == 4
    for name, value in regime.network.state_dict().items():
        assert not torch.equal(value, before[name]), name


@pytest.mark.parametrize("make", REGIMES)
def test_a_logged_term_is_its_mean_over_the_samples_of_the_epoch(make, tmp_path):
    # With a learning rate of 0 the terms can be worked out afterwards.
    build, terms = REGIMES[make]
    regime, watch = build(**STILL), Watch()
    run = trainer(tmp_path, watch, max_epochs=2)
    data = digits(batch_size=700)
    run.fit(regime, datamodule=data)
    assert len(watch.batches[2][1]) != len(watch.batches[3][1])  # so that the samples' weights matter
    sums = dict.fromkeys(terms, 0.0)
    count = 0
    for epoch, x, y, index in watch.batches[2:]:
        key = sampling.keys(index, epoch=epoch)
        with sampling.keyed(key):
            for name, term in regime.loss(x, y, key).items():
                sums[name] += len(x) * float(term)
        count += len(x)
    for name, total in sums.items():
        assert float(run.callback_metrics[f"train/{name}"]) == pytest.approx(total / count, rel=1e-5)
    last = sum(regime.loss(x, y, key).values()) if "natural" in make else None
    if last is not None:
        assert float(run.callback_metrics["train/loss"]) == pytest.approx(float(last), rel=1e-5)


def test_validation_and_test_are_clean_accuracy_and_loss(tmp_path):
    regime, data = Natural(small_cnn()), digits(eval_batch_size=50)
    run = trainer(tmp_path, limit_val_batches=1.0)
    for split, measure, positions in (
        ("val", run.validate, lambda: data.split[1]),
        ("test", run.test, lambda: torch.arange(360)),
    ):
        (metrics,) = measure(regime, datamodule=data, verbose=False)
        stored = data.images(train=split == "val")
        rows = positions()
        x, y = stored.x[rows].float() / 255, stored.y[rows]
        with torch.no_grad():
            logits = regime(x)
        assert metrics[f"{split}/acc"] == pytest.approx(float((logits.argmax(1) == y).float().mean()))
        assert metrics[f"{split}/loss"] == pytest.approx(float(F.cross_entropy(logits, y)), rel=1e-5)


def test_attacks_start_anew_each_epoch_and_the_same_for_seed_epoch_and_image(tmp_path, monkeypatch):
    def spied(seed):
        monkeypatch.setenv("PL_GLOBAL_SEED", str(seed))
        spy, watch = Spy(), Watch()
        trainer(tmp_path, watch, max_epochs=2).fit(AdversarialTraining(small_cnn(), attack=spy), datamodule=digits())
        assert len(spy.seen) == len(watch.batches) == 4
        noise = {}
        for given, (epoch, x, y, index) in zip(spy.seen, watch.batches, strict=True):
            assert torch.equal(given["key"], sampling.keys(index, seed=seed, epoch=epoch))
            assert torch.equal(given["x"], x)
            assert torch.equal(given["y"], y)
            noise |= {(epoch, i): k for i, k in zip(index.tolist(), given["key"].tolist(), strict=True)}
        return noise

    first, again, other = spied(5), spied(5), spied(6)
    assert first == again
    assert len(set(first.values())) == len(first) == 4 * 64  # every start of both epochs is its own
    assert not set(first.values()) & set(other.values())


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_a_trained_network_is_in_train_mode_for_its_update(mode, tmp_path):
    modes = []

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = small_cnn()

        def forward(self, x):
            modes.append((self.training, torch.is_grad_enabled()))
            return self.inner(x)

    spy = Spy()
    regime = AdversarialTraining(Watched(), attack=spy, attack_mode=mode)
    trainer(tmp_path, limit_val_batches=0).fit(regime, datamodule=digits())
    assert [seen["modes"] for seen in spy.seen] == [{mode == "train"}] * 2
    assert modes[0] == (False, False)  # the check before any work
    assert modes[1:] == [(mode == "train", True), (True, True)] * 2


class Diverges(RobustClassifier):
    """A term becomes bad at the second step."""

    bad = float("nan")

    def loss(self, x, y, key):
        ce = F.cross_entropy(self.network(x), y)
        return {"ce": ce, "cost": ce * 0 + (self.bad if self.global_step == 1 else 0.25)}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_at_once_naming_step_and_term(bad, tmp_path):
    regime = Diverges(small_cnn())
    regime.bad = bad
    with pytest.raises(NonFiniteLossError, match=rf"at step 1 \(epoch 0\): ce = \d\.\d+, cost = {bad}") as error:
        trainer(tmp_path, limit_train_batches=5).fit(regime, datamodule=digits())
    assert isinstance(error.value, UserError)
    assert "trainer.gradient_clip_val" in str(error.value)
    assert all(p.isfinite().all() for p in regime.network.parameters())


# --- optimizers and schedules ---


def test_the_optimizer_gets_only_what_trains(tmp_path):
    given = []

    def optimizer(parameters):
        given.extend(parameters)
        return torch.optim.SGD(given, lr=0.1)

    network = small_cnn()
    network.conv1.requires_grad_(False)
    frozen = network.conv1.weight.clone()
    trainer(tmp_path).fit(Natural(network, optimizer=optimizer), datamodule=digits())
    trains = {id(p) for name, p in network.named_parameters() if not name.startswith("conv1")}
    assert {id(p) for p in given} == trains
    assert torch.equal(network.conv1.weight, frozen)


@pytest.mark.parametrize("make", REGIMES)
def test_a_frozen_network_is_refused(make, tmp_path):
    regime = REGIMES[make][0]()
    regime.network.requires_grad_(False)
    with pytest.raises(UserError, match="SmallCNN has no trainable parameter; is it frozen"):
        trainer(tmp_path).fit(regime, datamodule=digits())


def test_a_network_that_does_not_fit_the_data_is_refused_before_any_work(tmp_path):
    watch = Watch()
    with pytest.raises(UserError, match="SmallCNN does not take the data's 1x20x20 images"):
        trainer(tmp_path, watch).fit(Natural(small_cnn()), datamodule=digits(size=20))
    assert watch.batches == []


def test_a_radius_that_holds_every_image_is_refused_before_any_work(tmp_path):
    attack = PGD(threat=ThreatModel(17, "l2"), steps=2)
    with pytest.raises(UserError, match=r"expected eps to be at most 16.*did you mean 17/255"):
        trainer(tmp_path).fit(AdversarialTraining(small_cnn(), attack=attack), datamodule=digits())


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.4, momentum=0.9)


def rates(tmp_path, schedule, *, optimizer=sgd, batches=8, **options):
    watch = Watch()
    regime = Natural(small_cnn(), optimizer=optimizer, lr_scheduler=schedule)
    regime.loss = lambda x, y, key: {"ce": 0 * F.cross_entropy(regime.network(x), y)}
    options = {"max_epochs": 3, "limit_train_batches": batches, "limit_val_batches": 0, **options}
    run = trainer(tmp_path, watch, **options)
    run.fit(regime, datamodule=digits(batch_size=16))
    return watch, run


def test_triangular_over_the_whole_run(tmp_path):
    watch, _ = rates(tmp_path, Triangular)
    heights = [1 - abs(2 * step / 24 - 1) for step in range(24)]
    assert watch.rates == pytest.approx([0.4 * h for h in heights], abs=1e-9)
    assert watch.momenta == pytest.approx([0.9 - 0.1 * h for h in heights], abs=1e-9)


def test_steps_are_the_optimizer_s_when_gradients_are_accumulated(tmp_path):
    watch, run = rates(tmp_path, Triangular, accumulate_grad_batches=4)
    assert run.global_step == 6
    assert watch.rates == pytest.approx([0.4 * (1 - abs(2 * step / 6 - 1)) for step in range(6)], abs=1e-9)


def test_a_run_ended_by_steps_has_the_shape_of_those_steps(tmp_path):
    watch, _ = rates(tmp_path, Triangular, max_epochs=-1, max_steps=10)
    assert watch.rates == pytest.approx([0.4 * (1 - abs(2 * step / 10 - 1)) for step in range(10)], abs=1e-9)


def test_step_decay_in_fractions_of_the_run(tmp_path):
    watch, _ = rates(tmp_path, lambda o: StepDecay(o, milestones=[0.5, 0.75], gamma=0.1))
    expected = [0.4] * 12 + [0.04] * 6 + [0.004] * 6
    assert watch.rates == pytest.approx(expected)


def test_pytorch_s_own_schedules_step_every_epoch(tmp_path):
    watch, _ = rates(tmp_path, lambda o: torch.optim.lr_scheduler.StepLR(o, step_size=1, gamma=0.5))
    assert watch.rates == pytest.approx([0.4] * 8 + [0.2] * 8 + [0.1] * 8)


def test_without_a_schedule_the_rate_stays(tmp_path):
    watch, _ = rates(tmp_path, None, optimizer=lambda p: torch.optim.Adam(p, lr=0.3))
    assert set(watch.rates) == {0.3}


def test_a_regime_says_what_it_trains_against():
    assert Natural(small_cnn()).attack_summary == ""
    assert AdversarialTraining(small_cnn(), attack=PGD(threat=LINF, steps=7)).attack_summary == "PGD-7"
    assert TRADES(small_cnn(), attack=PGD(threat=LINF, steps=7)).attack_summary == "PGD-7"


def test_prediction_names_each_image(tmp_path):
    regime, data = Natural(small_cnn()), digits(eval_batch_size=100)
    batches = trainer(tmp_path).predict(regime, datamodule=data)
    merged = {name: torch.cat([b[name] for b in batches]) for name in batches[0]}
    test = data.images(train=False)
    with torch.no_grad():
        confidence, prediction = regime(test.x.float() / 255).softmax(1).max(1)
    assert torch.equal(merged["index"], torch.arange(360))
    assert torch.equal(merged["label"], test.y)
    assert torch.equal(merged["prediction"], prediction)
    torch.testing.assert_close(merged["confidence"], confidence)
