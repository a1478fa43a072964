"""Interval training: its schedule, its loss against closed forms, and what it does to certificates."""

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lit_robust import ThreatModel
from lit_robust.data import Digits
from lit_robust.errors import UserError
from lit_robust.evaluation.certificate import certify
from lit_robust.nn import Pipeline, SmallCNN
from lit_robust.nn.polarizing import PolarizingFrontEnd
from lit_robust.regimes import Natural
from lit_robust.regimes.interval import IntervalLoss, IntervalTraining

torch.set_num_threads(1)
HALF = ThreatModel(0.1)


def linear(features=16, classes=3):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(features, classes))


def images(n=8, side=4):
    generator = torch.Generator().manual_seed(0)
    return 0.3 + 0.4 * torch.rand(n, 1, side, side, generator=generator), torch.arange(n) % 3


def test_the_radius_grows_and_kappa_falls_linearly():
    loss = IntervalLoss(threat=HALF, kappa=0.4, start=0.2, end=0.6)
    found = {progress: loss.at(progress) for progress in (0.0, 0.2, 0.3, 0.4, 0.6, 1.0)}
    assert [found[p][0].radius for p in found] == pytest.approx([0, 0, 0.025, 0.05, 0.1, 0.1])
    assert [found[p][1] for p in found] == pytest.approx([1, 1, 0.85, 0.7, 0.4, 0.4])
    assert found[1.0][0] is HALF
    assert all(threat.norm == "l2" for threat, _ in [IntervalLoss(threat=ThreatModel(1, "l2")).at(p) for p in (0.1, 1)])
    assert IntervalLoss(threat=HALF, start=0.0, end=0.0).at(0.0) == (HALF, 0.5)


def test_a_linear_classifiers_loss_is_that_of_its_worst_images():
    net, (x, y) = linear(), images()
    weight = net[1].weight.detach()
    worst = []
    for image, label in zip(x, y, strict=True):
        margins = []
        for j in range(3):
            down = image - 0.1 * (weight[label] - weight[j]).sign().view(1, 4, 4)  # inside the pixel box
            z = net(down[None])[0]
            margins.append(z[j] - z[label])
        worst.append(F.cross_entropy(torch.stack(margins)[None], label[None]))
    terms = IntervalLoss(threat=HALF, kappa=0.3, start=0, end=0.5).terms(net, x, y, 1.0)
    assert terms["ce"].item() == pytest.approx(0.3 * F.cross_entropy(net(x), y).item())
    assert terms["worst"].item() == pytest.approx(0.7 * torch.stack(worst).mean().item(), rel=1e-5)


def test_before_the_ramp_only_images_count():
    net, (x, y) = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.GELU()), images()  # has no bounds
    terms = IntervalLoss(threat=HALF, start=0.3).terms(net, x, y, 0.1)
    assert terms["worst"].item() == 0
    assert terms["ce"].item() == pytest.approx(F.cross_entropy(net(x), y).item())


def test_bounds_are_those_of_eval_mode_and_the_mode_comes_back():
    layers = [nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(32, 3)]
    net = nn.Sequential(*layers)
    (x, y), loss = images(), IntervalLoss(threat=HALF, end=0.5)
    net.train()
    terms = loss.terms(net, x, y, 1.0)
    assert net.training
    assert net[1].training
    assert net[1].num_batches_tracked == 1
    terms["worst"].backward()
    assert net[0].weight.grad.abs().max() > 0
    assert net[1].weight.grad.abs().max() > 0


def polarizing(frozen):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        front = PolarizingFrontEnd(in_channels=1, filters=2, kernel_size=3, thresholds=[-0.3, 0.3])
        front.requires_grad_(not frozen)
        return Pipeline([front, SmallCNN(size=16, width=0.2, in_channels=2)])


def test_filters_learn_from_the_bounds_unless_they_are_frozen():
    x, y = images(side=16)
    for frozen in (True, False):
        net = polarizing(frozen)
        IntervalLoss(threat=HALF, end=0.5).terms(net, x, y, 1.0)["worst"].backward()
        assert net.stages[1].conv1.weight.grad.abs().max() > 0
        gradient = net.stages[0].conv.weight.grad
        assert (gradient is None) == frozen
        assert frozen or gradient.abs().max() > 0


def fitted(folder, regime, epochs=5):
    options = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(
        default_root_dir=folder, max_epochs=epochs, accelerator="cpu", logger=False, limit_val_batches=0, **options
    )
    torch.manual_seed(0)
    trainer.fit(regime, datamodule=Digits(size=16, batch_size=64))
    return regime.network.eval(), trainer


def small():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SmallCNN(size=16, width=0.25)


def adam(parameters):
    return torch.optim.Adam(parameters, lr=1e-2)


def test_it_certifies_what_natural_training_does_not(tmp_path):
    regime = IntervalTraining(small(), threat=ThreatModel(0.05), optimizer=adam, end=0.8)
    trained, trainer = fitted(tmp_path, regime)
    natural, _ = fitted(tmp_path, Natural(small(), optimizer=adam))
    data = Digits(size=16).images(train=False)
    x, y = data.x[:200].float() / 255, data.y[:200]
    ours, other = (certify(network, x, y, ThreatModel(0.03)) for network in (trained, natural))
    assert int(ours.certified.sum()) > 60
    assert int(other.certified.sum()) < 20
    assert {"train/ce", "train/worst"} <= trainer.callback_metrics.keys()
    assert "intervals L∞ 0.05" in IntervalTraining(small(), threat=ThreatModel(0.05)).attack_summary


def test_the_ramp_goes_by_the_steps_of_the_run(tmp_path):
    seen = []

    class Watched(IntervalTraining):
        def loss(self, x, y, key):
            terms = super().loss(x, y, key)
            seen.append((self.global_step / self.trainer.estimated_stepping_batches, terms["worst"].item() == 0))
            return terms

    fitted(tmp_path, Watched(small(), threat=ThreatModel(0.05), start=0.5, end=0.6, optimizer=adam), epochs=1)
    assert [clean for _, clean in seen] == [progress <= 0.5 for progress, _ in seen]
    assert len(seen) > 10


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kappa": 1.5}, "kappa of interval training in"),
        ({"start": 0.6, "end": 0.5}, "0 ≤ start ≤ end ≤ 1"),
        ({"end": 2}, "fractions of the run"),
        ({"threat": ThreatModel(None)}, "set eps"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        IntervalTraining(small(), **{"threat": HALF, **wrong})


def test_a_network_without_bounds_is_refused_before_training():
    net = nn.Sequential(nn.Flatten(), nn.Linear(256, 10), nn.GELU())
    with pytest.raises(UserError, match="no interval bound for 'gelu'"):
        IntervalTraining(net, threat=HALF).check(Digits(size=16))
    with pytest.raises(UserError, match="got l0"):
        IntervalTraining(small(), threat=ThreatModel(3, "l0")).check(Digits(size=16))
