"""Targeted APGD: closed forms for any number of classes, its targets, and the ensemble of APGD and targeted APGD."""

import itertools

import pytest
import torch
from linear import Noisy, broken, classified, cnn, falsified, keys, optimum
from torch import nn

from lit_robust.attacks import APGD, EOT, Restarts, TargetedAPGD, WorstOf, apgd
from lit_robust.errors import UserError
from lit_robust.evaluation import evaluate_block
from lit_robust.losses import negative_log_likelihood
from lit_robust.threat import ThreatModel

LINF = ThreatModel("6/255")
SHAPE = (3, 4, 4)


def linear_model(classes, seed=0):
    """A linear classifier of `SHAPE` images and its weights, (classes, *SHAPE)."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, classes, dtype=torch.float64))
    with torch.no_grad():
        model[1].weight.copy_(0.3 * torch.randn(classes, 48, generator=generator, dtype=torch.float64))
        model[1].bias.copy_(-0.5 * model[1].weight.sum(1))  # equal logits in the middle of the box
    return model, model[1].weight.detach().view(classes, *SHAPE)


@pytest.mark.parametrize("threat", [ThreatModel("5/255"), ThreatModel("0.15", "l2")], ids=str)
@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_targeted_apgd_breaks_a_linear_model_exactly_where_some_class_can_be_reached(classes, threat):
    # In a linear model the largest z_t − z_y over the threat model is known for each class t.
    model, w = linear_model(classes)
    x = torch.rand(48, *SHAPE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.no_grad():
        z = model(x)
    y = z.argmax(1)
    lead = z - z.gather(1, y[:, None])
    for label, target in itertools.product(range(classes), repeat=2):
        rise, rows = w[target] - w[label], y == label
        lead[rows, target] += (optimum(rise, x[rows], threat) * rise).flatten(1).sum(1)
    lead.scatter_(1, y[:, None], -torch.inf)
    breakable = lead.amax(1) > 0
    assert 4 < breakable.sum() < 44
    assert lead.amax(1).abs().min() > 1e-4  # no sample is a tie
    attack = TargetedAPGD(threat=threat, steps=50)
    for x_adv in (attack(model, x, y, key=keys(48)), falsified(attack, model, x, y)):
        assert torch.equal(broken(model, x_adv, y), breakable)
        assert threat.contains(x_adv, x).all()


def test_targets_are_the_likeliest_wrong_classes_in_order(monkeypatch):
    model = cnn(classes=6)
    x, y = classified(model, 8, classes=6)
    y[::2] = (y[::2] + 1) % 6  # some are wrong already: their targets may include the prediction
    reached = []

    def spy(logits, label, target):
        reached.append(target.tolist())
        return logits.sum(1) * 0

    monkeypatch.setattr(apgd, "targeted_dlr", spy)
    TargetedAPGD(threat=LINF, steps=1, targets=3)(model, x, y, key=keys(8))
    with torch.no_grad():
        others = model(x).scatter(1, y[:, None], -torch.inf).argsort(1, descending=True)
    assert reached[::2] == reached[1::2] == others[:, :3].T.tolist()


@pytest.mark.parametrize(("classes", "targets", "runs"), [(2, 9, 1), (3, 9, 2), (4, 9, 3), (10, 9, 9), (10, 4, 4)])
def test_passes_of_samples_that_hold_out(classes, targets, runs):
    model = cnn(classes=classes)
    x, y = classified(model, 6, classes=classes)
    weak = ThreatModel("0.01/255")
    attacks = {"apgd": APGD(threat=weak, steps=4), "t": TargetedAPGD(threat=weak, steps=4, targets=targets)}
    verdicts = evaluate_block(model, x, y, torch.arange(6), attacks, size=6).verdicts
    assert not verdicts["t"].broken.any()
    assert verdicts["apgd"].forwards.tolist() == [5] * 6
    assert verdicts["apgd"].backwards.tolist() == [4] * 6
    assert verdicts["t"].forwards.tolist() == [1 + 5 * runs] * 6
    assert verdicts["t"].backwards.tolist() == [4 * runs] * 6


@pytest.mark.parametrize("kind", ["plain", "random"])
def test_the_ensemble_of_the_tables_works_with_every_wrapper(kind):
    model = cnn() if kind == "plain" else Noisy(cnn(), 0.02)
    x, y = classified(model, 16)
    ce, targeted = APGD(threat=LINF, steps=6), TargetedAPGD(threat=LINF, steps=6)
    both = WorstOf(attacks=[ce, targeted])
    nll = APGD(threat=LINF, steps=6, loss=negative_log_likelihood)
    attacks = {
        "ce": ce,
        "targeted": targeted,
        "both": both,
        "restarts": Restarts(attack=both, n=2),
        "eot": EOT(attack=targeted, draws=2),
        "eot losses": EOT(attack=nll, draws=2, reduce="log_probs"),
    }
    verdicts = evaluate_block(model, x, y, torch.arange(16), attacks, size=16).verdicts
    broken = {name: verdict.broken for name, verdict in verdicts.items()}
    assert 0 < broken["both"].sum() < 16
    if kind == "plain":
        assert torch.equal(broken["both"], broken["ce"] | broken["targeted"])
        assert (broken["restarts"] >= broken["both"]).all()
    held = ~broken["targeted"]
    assert (verdicts["eot"].forwards[held & ~broken["eot"]] == 2 * verdicts["targeted"].forwards[held].max()).all()


def test_targeted_apgd_needs_a_target():
    with pytest.raises(UserError, match="expected targets to be 1 or more, got 0"):
        TargetedAPGD(threat=LINF, targets=0)
