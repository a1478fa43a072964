"""The guard: its rule, its measurement, what each policy does, and a fast training that really overfits."""

from types import SimpleNamespace

import pytest
import torch
from digit_runs import digits, trained, trainer, untrained
from torch import nn

from lit_robust import runs
from lit_robust.attacks import FGSM, PGD, GaussianNoise
from lit_robust.callbacks import AtomicCheckpointIO, Checkpoints, overfitting_guard
from lit_robust.callbacks.held_out_probe import held_out_accuracies
from lit_robust.callbacks.overfitting_guard import OverfittingGuard
from lit_robust.callbacks.overfitting_rule import BestSoFar
from lit_robust.errors import UserError
from lit_robust.evaluation import evaluate_block
from lit_robust.loggers import MetricsFile
from lit_robust.regimes import AdversarialTraining, Natural
from lit_robust.sampling import keys
from lit_robust.schedules import StepDecay
from lit_robust.threat import ThreatModel

FAST = FGSM(threat=ThreatModel(0.1))


class Aging(nn.Module):
    """Logits of a linear layer, and a buffer that counts epochs: the accuracies of these tests are looked up by it."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(256, 10)
        self.register_buffer("age", torch.zeros(()))

    def forward(self, x):
        return self.linear(x.flatten(1))


class Ages(AdversarialTraining):
    def __init__(self, optimizer=torch.optim.Adam, lr_scheduler=None):
        torch.manual_seed(0)
        super().__init__(Aging(), attack=FAST, optimizer=optimizer, lr_scheduler=lr_scheduler)
        self.seen = []

    def on_train_epoch_start(self):
        self.network.age += 1
        optimizer = self.trainer.optimizers[0]
        steps = optimizer.state[self.network.linear.weight].get("step", torch.zeros(()))
        self.seen.append((int(self.network.age), int(steps), optimizer.param_groups[0]["lr"]))


@pytest.fixture
def robust(monkeypatch):
    """Accuracies under probe and training attack by the age of the network; older ones are like the oldest."""

    def set_to(*pairs):
        def looked_up(network, *args, **kwargs):
            probe, training = pairs[min(int(network.age), len(pairs)) - 1]
            return {"clean": 0.9, "probe": probe, "train_attack": training}

        monkeypatch.setattr(overfitting_guard, "held_out_accuracies", looked_up)

    return set_to


def fit(folder, guard, regime=None, path=None, checkpoints=None, data=None, **options):
    folder.mkdir(exist_ok=True)
    regime = Ages() if regime is None else regime
    options = {"max_epochs": 6, "enable_checkpointing": True, "plugins": [AtomicCheckpointIO()], **options}
    run = trainer(folder, guard, checkpoints or Checkpoints(select="last"), limit_val_batches=1, **options)
    run.fit(regime, datamodule=data or digits(), ckpt_path=path, weights_only=path is not None)
    return regime, run


def age(folder, name):
    return int(runs.network_weights(runs.load_checkpoint(folder / "checkpoints" / name))["age"])


# --- the rule ---


@pytest.mark.parametrize(
    ("best", "now", "state"),
    [
        ((0.5, 0.6), (0.02, 0.9), "collapsed"),  # as published
        ((0.5, 0.6), (0.24, 0.6), "collapsed"),
        ((0.5, 0.6), (0.26, 0.5), "unsure"),  # not yet half
        ((0.5, 0.6), (0.37, 0.6), "unsure"),
        ((0.5, 0.6), (0.38, 0.6), "good"),
        ((0.5, 0.6), (0.2, 0.38), "unsure"),  # both fall: divergence
        ((0.5, 0.6), (0.2, 0.4), "collapsed"),
        ((0.19, 0.2), (0.08, 0.2), "collapsed"),
        ((0.17, 0.2), (0.08, 0.2), "unsure"),  # nine points may be chance
        ((0.05, 0.1), (0.05, 0.31), "collapsed"),  # it never rose
        ((0.05, 0.1), (0.05, 0.29), "unsure"),
        ((0.3, 0.6), (0.3, 0.59), "good"),
        ((0.3, 0.61), (0.3, 0.61), "collapsed"),
        ((0.0, 0.0), (0.19, 0.2), "unsure"),  # hardly better than guessing
        ((0.0, 0.0), (0.21, 0.2), "good"),
        ((0.0, 0.0), (0.0, 0.0), "unsure"),
    ],
)
def test_what_is_a_collapse(best, now, state):
    assert BestSoFar(probe=best[0], training=best[1]).judge(*now, alike=True, chance=0.1) == state


def test_attacks_of_other_threat_models_are_compared_only_with_their_own_past():
    assert BestSoFar(probe=0.05, training=0.1).judge(0.05, 0.9, alike=False, chance=0.1) == "unsure"
    assert BestSoFar(probe=0.5, training=0.9).judge(0.05, 0.9, alike=False, chance=0.1) == "collapsed"


def test_the_best_is_kept_with_its_epoch():
    best = BestSoFar()
    for epoch, (probe, training) in enumerate([(0.2, 0.3), (0.5, 0.4), (0.4, 0.9), (0.5, 0.2)], 1):
        best.add(probe, training, epoch)
    assert best == BestSoFar(probe=0.5, training=0.9, epoch=2)


# --- the measurement ---


def test_accuracies_are_those_of_an_evaluation_and_nothing_is_left_changed():
    network, data = trained().train(), digits(eval_batch_size=50)
    probe, index = PGD(threat=ThreatModel(0.1)), data.split[1][:90]
    generator = torch.get_rng_state()
    found = held_out_accuracies(network, data, probe, FAST, samples=90, seed=3)
    assert network.training
    assert torch.equal(torch.get_rng_state(), generator)
    x, y = data.images(train=True).x[index].float() / 255, data.images(train=True).y[index]
    network.eval()
    result = evaluate_block(network, x, y, index, {"probe": probe}, size=90, seed=3, draws=1)
    x_adv = FAST(network, x, y, key=keys(index, seed=3))
    assert found["probe"] == pytest.approx(float((~result.verdicts["probe"].broken).float().mean()), abs=1.5 / 90)
    assert found["train_attack"] == pytest.approx(float((network(x_adv).argmax(1) == y).float().mean()), abs=1.5 / 90)
    assert found["clean"] == pytest.approx(float((network(x).argmax(1) == y).float().mean()), abs=1e-6)
    assert 0.1 < found["probe"] < found["train_attack"] < found["clean"]
    assert "train_attack" not in held_out_accuracies(network, data, probe, None, samples=5, seed=3)


# --- the policies ---


FALLS = [(0.4, 0.5), (0.5, 0.6), (0.03, 0.9)]  # at the third epoch


def test_warn_says_it_once_and_trains_on(tmp_path, robust, capsys):
    robust(*FALLS)
    regime, run = fit(tmp_path, OverfittingGuard(policy="warn"), logger=MetricsFile(tmp_path))
    said = [line for line in capsys.readouterr().out.splitlines() if "catastrophic" in line]
    assert len(said) == 1
    for part in ("after epoch 3:", "3.0%", "best 50.0%, after epoch 2", "90.0% the training attack", "goes on"):
        assert part in said[0]
    assert [number for number, *_ in regime.seen] == [1, 2, 3, 4, 5, 6]
    assert (age(tmp_path, "good.ckpt"), age(tmp_path, "last.ckpt")) == (2, 6)
    assert float(run.callback_metrics["guard/collapsed"]) == 1
    text = (tmp_path / "metrics.csv").read_text()
    assert all(f"guard/{name}" in text for name in ("probe_acc", "train_attack_acc", "clean_acc", "best_minus_last"))


def test_a_second_collapse_is_said_again(tmp_path, robust, capsys):
    robust(*FALLS, (0.5, 0.5), (0.02, 0.6), (0.02, 0.6))
    fit(tmp_path, OverfittingGuard())
    said = [line for line in capsys.readouterr().out.splitlines() if "catastrophic" in line]
    assert ["after epoch 3" in said[0], "after epoch 5" in said[1], len(said)] == [True, True, 2]


def test_stop_ends_the_training_with_the_collapsed_network_as_the_last(tmp_path, robust, capsys):
    robust(*FALLS)
    regime, _ = fit(tmp_path, OverfittingGuard(policy="stop"))
    assert [number for number, *_ in regime.seen] == [1, 2, 3]
    assert (age(tmp_path, "good.ckpt"), age(tmp_path, "last.ckpt")) == (2, 3)
    assert "training stops" in capsys.readouterr().out


def test_rollback_goes_back_and_stops_after_the_last_one(tmp_path, robust, capsys):
    robust(*FALLS)
    schedule = lambda optimizer: StepDecay(optimizer, milestones=[0.7])  # noqa: E731
    regime, run = fit(
        tmp_path,
        OverfittingGuard(policy="rollback", rollbacks=2, lr_factor=0.5),
        Ages(lr_scheduler=schedule),
        max_epochs=10,
    )
    ages, steps, rates = zip(*regime.seen, strict=True)
    assert ages == (1, 2, 3, 3, 3)  # the third epoch of the network three times, in epochs 3, 4 and 5 of the run
    assert steps == (0, 2, 4, 4, 4)  # Adam's momenta go back too
    assert rates == pytest.approx((1e-3, 1e-3, 1e-3, 5e-4, 2.5e-4))
    assert run.lr_scheduler_configs[0].scheduler.last_epoch == 10  # and the schedule goes on: 2 steps an epoch
    assert run.current_epoch == 5
    assert (age(tmp_path, "good.ckpt"), age(tmp_path, "last.ckpt")) == (2, 2)
    good, last = (runs.load_checkpoint(tmp_path / "checkpoints" / name) for name in ("good.ckpt", "last.ckpt"))
    for name, value in good["state_dict"].items():
        assert torch.equal(value, last["state_dict"][name])
    out = capsys.readouterr().out
    assert "back to good.ckpt of epoch 2 (rollback 1 of 2)" in out
    assert "back to good.ckpt, and training stops after 2 rollbacks" in out


def test_the_lowered_rate_is_the_schedules_too(tmp_path, robust):
    robust((0.5, 0.6), (0.03, 0.9), (0.5, 0.6))
    schedule = lambda optimizer: StepDecay(optimizer, milestones=[0.7])  # noqa: E731
    guard = OverfittingGuard(policy="rollback", lr_factor=0.5)
    robust_again = iter([False, True])

    class Recovers(Ages):
        def on_train_epoch_start(self):
            super().on_train_epoch_start()
            if self.network.age == 2 and next(robust_again):
                self.network.age += 1  # the second time it does not collapse

    regime, _ = fit(tmp_path, guard, Recovers(lr_scheduler=schedule), max_epochs=5)
    assert [rate for *_, rate in regime.seen] == pytest.approx([1e-3, 1e-3, 5e-4, 5e-4, 5e-5])


def test_without_a_good_epoch_a_rollback_stops(tmp_path, robust, capsys):
    robust((0.05, 0.1), (0.05, 0.6))
    regime, _ = fit(tmp_path, OverfittingGuard(policy="rollback"))
    assert len(regime.seen) == 2
    assert "nothing to go back to" in capsys.readouterr().out
    assert not (tmp_path / "checkpoints" / "good.ckpt").exists()


@pytest.mark.parametrize(("every", "looked"), [(1, 6), (2, 3), (4, 1), (9, 0)])
def test_it_looks_every_n_epochs(every, looked, tmp_path, robust, monkeypatch):
    robust((0.5, 0.6))
    count, measure = [], overfitting_guard.held_out_accuracies
    monkeypatch.setattr(overfitting_guard, "held_out_accuracies", lambda *a, **k: count.append(a) or measure(*a, **k))
    fit(tmp_path, OverfittingGuard(every_n_epochs=every))
    assert len(count) == looked + 1  # and the last network at the end


def test_a_new_stage_of_a_regime_is_a_training_of_its_own(tmp_path, robust):
    class Staged(Ages):
        @property
        def place(self):
            return SimpleNamespace(stage=int(self.current_epoch >= 2))

    robust(*FALLS)
    guard = OverfittingGuard(policy="stop", probe=PGD(threat=ThreatModel(0.2)))  # judged by its own past alone
    regime, _ = fit(tmp_path, guard, Staged())
    assert len(regime.seen) == 6


# --- resume, processes, the end ---


def test_a_resumed_run_goes_on_with_what_was_seen(tmp_path, robust):
    robust(*FALLS)
    whole, first, rest = (OverfittingGuard(policy="rollback", rollbacks=1) for _ in range(3))
    fit(tmp_path / "whole", whole, max_epochs=6)
    fit(tmp_path / "cut", first, max_epochs=3)
    resumed, _ = fit(tmp_path / "cut", rest, path=tmp_path / "cut" / "checkpoints" / "last.ckpt", max_epochs=6)
    assert rest.state_dict() == whole.state_dict()
    assert rest.state_dict()["rolled_back"] == 1
    assert [number for number, *_ in resumed.seen] == [3]  # collapsed again, and the one rollback is used up
    weights = [runs.load_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("whole", "cut")]
    assert all(torch.equal(weights[0]["state_dict"][name], value) for name, value in weights[1]["state_dict"].items())


def test_other_processes_do_what_the_first_has_found(monkeypatch):
    guard, logged = OverfittingGuard(policy="stop"), {}
    monkeypatch.setattr(overfitting_guard, "held_out_accuracies", None)  # not to be called
    guard.load_state_dict(
        {"best": BestSoFar(0.5, 0.6, 1, 1).__dict__, "rolled_back": 0, "collapsed": False, "stage": 0}
    )
    found = {"clean": 0.9, "probe": 0.0, "train_attack": 0.8}
    other = SimpleNamespace(
        current_epoch=4,
        is_global_zero=False,
        should_stop=False,
        datamodule=digits(),
        strategy=SimpleNamespace(broadcast=lambda own: found),
    )
    regime = SimpleNamespace(attack=FAST, log_dict=lambda values, sync_dist: logged.update(values))
    guard.on_train_epoch_end(other, regime)
    assert other.should_stop
    assert logged["guard/probe_acc"] == 0.0


def test_the_best_and_the_last_are_reported(tmp_path, robust, capsys):
    class Scored(Ages):
        val_metrics = ("val/score",)

        def validation_step(self, batch, batch_idx):
            self.log("val/score", float(self.network.age == 2))

    robust((0.3, 0.5), (0.5, 0.6), (0.44, 0.6))
    regime, _ = fit(tmp_path, OverfittingGuard(), Scored(), checkpoints=Checkpoints(monitor="val/score"))
    said = capsys.readouterr().out.splitlines()[-1]
    assert "PGD-10 on 144 held-out images: best checkpoint 50.0%, last 44.0%, difference +6.0 points" in said
    assert int(regime.network.age) == 6  # the network is the last one again
    fit(tmp_path / "other", OverfittingGuard(samples=20))
    assert "20 held-out images: best seen in training, after epoch 2 50.0%, last 44.0%" in capsys.readouterr().out


# --- what is refused ---


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"policy": "pray"}, "warn, stop or rollback, got 'pray'"),
        ({"samples": 0}, "of at least 1"),
        ({"every_n_epochs": 0}, "of at least 1"),
        ({"rollbacks": -1}, "rollbacks of 0 or more"),
        ({"lr_factor": 0.0}, r"in \(0, 1\], got 0"),
        ({"lr_factor": 1.5}, r"in \(0, 1\], got 1.5"),
    ],
)
def test_settings_out_of_range(options, said):
    with pytest.raises(UserError, match=said):
        OverfittingGuard(**options)


def test_what_cannot_be_watched_is_refused_before_training(tmp_path):
    def refused(said, regime=None, data=None, **options):
        regime = regime or Ages()
        with pytest.raises(UserError, match=said):
            fit(tmp_path, OverfittingGuard(**options), regime, data=data)
        assert not getattr(regime, "seen", [])

    noise = AdversarialTraining(untrained(), attack=GaussianNoise(sigma=0.1))
    refused("validation part; set data.val_split", data=digits(val_split=0))
    refused("Natural trains against none", Natural(untrained()))
    refused("cannot take a radius from GaussianNoise", noise)
    refused("untargeted", probe=PGD(threat=ThreatModel(0.1), targeted=True))
    refused("did you mean 20/255", probe=PGD(threat=ThreatModel(20, norm="l2")))


# --- the real thing ---


def perceptron():
    layers = nn.Flatten(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
    return nn.Sequential(*layers)


def train(folder, attack, guard, epochs):
    torch.manual_seed(0)
    regime = AdversarialTraining(perceptron(), attack=attack, optimizer=lambda p: torch.optim.Adam(p, lr=2e-3))
    return fit(folder, guard, regime, limit_train_batches=1.0, max_epochs=epochs)[1]


def test_fast_training_with_a_large_step_overfits_catastrophically_and_is_stopped(tmp_path, capsys):
    run = train(tmp_path, FGSM(threat=ThreatModel(0.3)), OverfittingGuard(policy="stop"), 40)
    assert run.current_epoch < 30
    assert float(run.callback_metrics["guard/probe_acc"]) < 0.1
    assert float(run.callback_metrics["guard/train_attack_acc"]) > 0.25
    assert "catastrophic overfitting" in capsys.readouterr().out


def test_honest_training_raises_no_alarm(tmp_path, capsys):
    run = train(tmp_path, PGD(threat=ThreatModel(0.1), steps=3), OverfittingGuard(policy="stop"), 3)
    assert run.current_epoch == 3
    assert float(run.callback_metrics["guard/probe_acc"]) > 0.3
    assert "catastrophic" not in capsys.readouterr().out
