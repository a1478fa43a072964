"""What the gradient attacks do at the edges: eps = 0, vanishing and undefined gradients, soft labels, random models."""

import math

import pytest
import torch
from linear import Noisy, TwoClasses, batch, broken, classified, cnn, falsified, keys
from torch import nn

from lit_robust.attacks import BIM, FGSM, PGD, RFGSM, RadialPGD, Restarts
from lit_robust.losses import cw_margin, dlr, negative_margin
from lit_robust.threat import ThreatModel

LINF = ThreatModel("8/255")
THREATS = [LINF, ThreatModel("0.5", "l2"), ThreatModel("2", "l1"), ThreatModel.box()]
BALLS = THREATS[:3]
each_threat = pytest.mark.parametrize("threat", THREATS, ids=str)


@pytest.mark.parametrize("kind", [FGSM, RFGSM, BIM, PGD, RadialPGD])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_eps_0_gives_the_image_itself(kind, norm):
    model = cnn()
    x, y = classified(model)
    attack = kind(threat=ThreatModel(0, norm))
    assert torch.equal(attack(model, x, y, key=keys(8)), x)
    assert torch.equal(falsified(Restarts(attack=attack, n=2), model, x, y), x)


@each_threat
@pytest.mark.parametrize("start", ["random", "clean", "gaussian"])
def test_zero_steps_give_the_start(threat, start):
    x, y = batch()
    x_adv = PGD(threat=threat, steps=0, start=start)(cnn(), x, y, key=keys(8))
    assert torch.equal(x_adv, x) == (start == "clean")
    if start == "gaussian" and threat is LINF:
        assert (x_adv - x).std().item() == pytest.approx(0.001, rel=0.1)


class Constant(nn.Module):
    """Logits whose gradient is 0 everywhere."""

    def forward(self, x):
        return x.flatten(1)[:, :4] * 0.0 + torch.arange(4.0, dtype=x.dtype)


class Undefined(nn.Module):
    """Finite logits whose gradient is NaN: the root of 0 has an infinite slope, times 0."""

    def forward(self, x):
        return (x.flatten(1)[:, :4] * 0.0).sqrt()


class Infinite(nn.Module):
    """Finite logits whose gradient is infinite."""

    def forward(self, x):
        hidden = x.flatten(1)[:, :4]
        return hidden + (hidden - hidden.detach()).abs().sqrt()


@pytest.mark.parametrize("model", [Constant(), Undefined(), Infinite()], ids=lambda model: type(model).__name__)
@pytest.mark.parametrize(
    "attack",
    [
        *(PGD(threat=threat, steps=3, start=start) for threat in THREATS for start in ("random", "clean")),
        *(RadialPGD(threat=t, steps=3, start="clean", onto=onto) for t in BALLS for onto in ("ball", "sphere")),
        FGSM(threat=LINF, loss=dlr),
        FGSM(threat=LINF, loss=cw_margin),
    ],
    ids=lambda attack: f"{attack} {attack.loss.__name__}",
)
def test_zero_infinite_and_nan_gradients_give_no_nan_images(model, attack):
    x, _ = batch()
    y = torch.zeros(8, dtype=torch.long)
    for x_adv in (attack(model, x, y, key=keys(8)), falsified(attack, model, x, y)):
        assert x_adv.isfinite().all()
        assert attack.threat.contains(x_adv, x).all()


@each_threat
def test_a_sample_with_a_nan_gradient_does_not_spoil_its_neighbours(threat):
    class OneUndefined(nn.Module):
        def forward(self, x):
            logits = healthy(x)
            first = (torch.arange(len(x)) == 0)[:, None]
            return logits * torch.where(first, math.nan, 1.0)

    healthy = cnn()
    x, y = classified(healthy)
    attack = PGD(threat=threat, steps=3, start="clean")
    spoiled, whole = attack(OneUndefined(), x, y), attack(healthy, x, y)
    torch.testing.assert_close(spoiled[1:], whole[1:], rtol=0, atol=1e-12)
    assert torch.equal(spoiled[0], x[0])


@pytest.mark.parametrize("threat", BALLS, ids=str)
def test_a_tiny_gradient_moves_the_image_as_far_as_a_large_one(threat):
    w = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x, y = torch.full((2, 3, 4, 4), 0.5, dtype=torch.float64), torch.zeros(2, dtype=torch.long)
    attack = FGSM(threat=threat, loss=negative_margin)
    torch.testing.assert_close(attack(TwoClasses(1e-18 * w), x, y), attack(TwoClasses(w), x, y))


def test_a_gradient_that_is_one_number_expanded_is_taken():
    class Brightness(nn.Module):
        def forward(self, x):
            total = x.flatten(1).sum(1, keepdim=True)
            return torch.cat([total, -total], 1)

    x, y = torch.full((2, 1, 3, 3), 0.5), torch.zeros(2, dtype=torch.long)
    torch.testing.assert_close(FGSM(threat=LINF)(Brightness(), x, y), x - 8 / 255)


@pytest.mark.parametrize("threat", BALLS, ids=str)
def test_soft_labels_ascend_kl(threat):
    def kl(logits, y):
        return nn.functional.kl_div(logits.log_softmax(1), y, reduction="none").sum(1)

    model = cnn()
    x, _ = batch()
    soft = model(x).detach().softmax(1)
    options = {"threat": threat, "steps": 4, "start": "gaussian"}
    x_adv = PGD(**options)(model, x, soft, key=keys(8))
    torch.testing.assert_close(x_adv, PGD(**options, loss=kl)(model, x, soft, key=keys(8)), rtol=0, atol=1e-9)
    assert not torch.allclose(x_adv, PGD(**options)(model, x, soft.argmax(1), key=keys(8)), rtol=0, atol=1e-4)


@pytest.mark.parametrize("threat", BALLS, ids=str)
@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(reduction="none"), negative_margin, cw_margin, dlr])
def test_pgd_breaks_more_than_its_start_and_larger_balls_break_more(threat, loss):
    model = cnn()
    x, y = classified(model, 32)
    attacks = [PGD(threat=ThreatModel(share * threat.exact, threat.norm), loss=loss) for share in (0, 1, 4)]
    counts = [int(broken(model, attack(model, x, y, key=keys(32)), y).sum()) for attack in attacks]
    assert counts[0] == 0
    assert 0 < counts[1] < counts[2]


@pytest.mark.parametrize("threat", BALLS, ids=str)
def test_targeted_pgd_reaches_its_class_and_falsify_counts_that_as_broken(threat):
    model = cnn()
    x, y = classified(model, 32)
    target = (y + 1) % 4
    attack = PGD(threat=ThreatModel(3 * threat.exact, threat.norm), steps=10, targeted=True)
    assert attack.targeted
    last = ~broken(model, attack(model, x, target, key=keys(32)), target)
    found = ~broken(model, falsified(attack, model, x, target), target)
    assert last.any()
    assert (found >= last).all()


def test_broken_means_another_class_or_when_targeted_the_target():
    logits, y = torch.tensor([[2.0, 1.0], [1.0, 2.0]]), torch.tensor([0, 0])
    assert FGSM(threat=LINF).broken(logits, y).tolist() == [False, True]
    assert FGSM(threat=LINF, targeted=True).broken(logits, y).tolist() == [True, False]
    soft = torch.tensor([[0.9, 0.1], [0.6, 0.4]])
    assert FGSM(threat=LINF).broken(logits, soft).tolist() == [False, True]


def test_a_random_model_draws_anew_in_every_step_and_restart_and_repeats_for_the_same_key():
    draws = []

    class Recorder(nn.Module):
        def forward(self, x):
            y = inner(x)
            draws.append(tuple(y[0].tolist()))
            return y

    inner = Noisy(nn.Flatten(), 1.0)
    x, y = torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64), torch.zeros(1, dtype=torch.long)
    attack = Restarts(attack=BIM(threat=ThreatModel(0), steps=3), n=2)  # eps 0: the model's input stays
    attack(Recorder(), x, y, key=keys(1))
    first, draws[:] = list(draws), []
    assert len(set(first)) == len(first) == 8  # 2 restarts of 3 steps and a comparison each
    attack(Recorder(), x, y, key=keys(1))
    assert draws == first


@each_threat
def test_an_empty_batch_stays_empty(threat):
    x, y = batch(0)
    attack = PGD(threat=threat, steps=2)
    assert attack(cnn(), x, y, key=keys(0)).shape == x.shape
    assert falsified(Restarts(attack=attack, n=2), cnn(), x, y).shape == x.shape


def test_presets_are_pgd_with_their_published_start_and_step():
    model = cnn()
    x, y = classified(model)
    pairs = [
        (FGSM(threat=LINF), PGD(threat=LINF, steps=1, step_size="8/255", start="clean")),
        (RFGSM(threat=LINF), PGD(threat=LINF, steps=1, step_size="10/255", start="random")),
        (BIM(threat=LINF, steps=7), PGD(threat=LINF, steps=7, step_size="2/255", start="clean")),
        (RadialPGD(threat=LINF, steps=3), PGD(threat=LINF, steps=3)),
    ]
    for preset, pgd in pairs:
        assert torch.equal(preset(model, x, y, key=keys(8)), pgd(model, x, y, key=keys(8)))
        assert str(preset).split(" ", 1)[1] == str(pgd).split(" ", 1)[1]
    assert str(PGD(threat=LINF, steps=40, step_size="eps/10")) == "PGD-40 L∞ 8/255, step 0.8/255, random start"
