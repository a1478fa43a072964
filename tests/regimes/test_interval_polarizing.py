"""Interval training as the last stage of a polarizing run: what it trains, and by which part of the stage."""

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

from lit_robust import ThreatModel
from lit_robust.data import Digits
from lit_robust.errors import UserError
from lit_robust.nn import Pipeline, SmallCNN
from lit_robust.nn.polarizing import PolarizingFrontEnd
from lit_robust.regimes.interval_polarizing import IntervalPolarizing

torch.set_num_threads(1)


def network(classifier=None):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        front = PolarizingFrontEnd(filters=2, kernel_size=3, thresholds=0.3)
        return Pipeline([front, classifier or SmallCNN(size=16, width=0.1, in_channels=2)])


def regime(net=None, **options):
    return IntervalPolarizing(net or network(), threat=ThreatModel(0.1), start=0.25, end=0.75, **options)


def test_only_the_last_stage_sees_bounds_and_its_ramp_is_the_stages(tmp_path):
    seen = []

    class Watched(IntervalPolarizing):
        def loss(self, x, y, key):
            filters = self.front_end.conv.weight.detach().clone()
            terms = super().loss(x, y, key)
            seen.append((self.current_epoch, terms, self.interval, filters))
            return terms

    watched = Watched(network(), threat=ThreatModel(0.1), start=0.25, end=0.75)
    wanted = []
    real = type(watched.interval).terms

    def terms(interval, net, x, y, progress):
        wanted.append(progress)
        return real(interval, net, x, y, progress)

    trainer = pl.Trainer(
        default_root_dir=tmp_path,
        max_epochs=6,
        limit_train_batches=4,
        limit_val_batches=0,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(watched.interval), "terms", terms)
        trainer.fit(watched, datamodule=Digits(size=16, batch_size=8))
    assert [set(names) for _, names, *_ in seen] == [{"ce", "bump"}] * 16 + [{"ce", "worst"}] * 8
    assert wanted == pytest.approx([i / 8 for i in range(8)])
    worst = [float(names["worst"].detach()) for epoch, names, *_ in seen if epoch >= 4]
    assert worst[:3] == [0, 0, 0], "up to a quarter of the stage"
    assert all(value > 0 for value in worst[3:])
    assert torch.equal(seen[-1][3], seen[16][3]), "the filters are frozen"
    assert not torch.equal(seen[0][3], seen[16][3])


def test_the_other_arguments_are_those_of_polarizing():
    assert regime(peak=0.5).peak == 0.5
    with pytest.raises(UserError, match="sigma1"):
        regime(sigma1=0.0)
    with pytest.raises(UserError, match="0 ≤ start ≤ end ≤ 1"):
        IntervalPolarizing(network(), threat=ThreatModel(0.1), start=1, end=0)


def test_a_classifier_without_bounds_is_refused_before_training():
    net = network(nn.Sequential(nn.Flatten(), nn.Linear(512, 10), nn.GELU()))
    with pytest.raises(UserError, match="no interval bound for 'gelu'"):
        regime(net).check(Digits(size=16))
    regime().check(Digits(size=16))
