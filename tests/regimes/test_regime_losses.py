"""The losses of the regimes against values worked out by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from trained import Spy, batch, statistics, tiny

from lit_robust import sampling
from lit_robust.attacks import FGSM, PGD, GaussianNoise, Restarts, WorstOf
from lit_robust.errors import UserError
from lit_robust.losses import cross_entropy
from lit_robust.nn import AdditiveNoise
from lit_robust.regimes import TRADES, AdversarialTraining, Natural
from lit_robust.threat import ThreatModel

LINF = ThreatModel("16/255")
KEY = sampling.keys(torch.arange(6))


def cross_entropy_by_hand(logits, y):
    return torch.stack([-(z[c] - z.exp().sum().log()) for z, c in zip(logits, y, strict=True)]).mean()


def kl_by_hand(clean, attacked):
    p, q = clean.softmax(1), attacked.softmax(1)
    return (p * (p / q).log()).sum(1).mean()


def test_natural_training():
    x, y, _ = batch()
    terms = Natural(tiny()).loss(x, y, KEY)
    assert list(terms) == ["ce"]
    torch.testing.assert_close(terms["ce"], cross_entropy_by_hand(tiny()(x), y))


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_adversarial_training(mode):
    x, y, _ = batch()
    net = tiny().train(mode == "train")
    x_grad = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy_by_hand(net(x_grad), y), x_grad)
    x_adv = (x + 16 / 255 * gradient.sign()).clamp(0, 1)
    regime = AdversarialTraining(tiny(), attack=FGSM(threat=LINF), attack_mode=mode)
    terms = regime.loss(x, y, KEY)
    assert list(terms) == ["ce"]
    expected = cross_entropy_by_hand(tiny()(x_adv), y)  # the update itself is in train mode
    torch.testing.assert_close(terms["ce"], expected)
    assert terms["ce"] > cross_entropy_by_hand(tiny()(x), y) + 0.1


def test_adversarial_training_uses_only_the_attacked_images():
    x, y, _ = batch()
    terms = AdversarialTraining(tiny(), attack=Spy(shift=0.2)).loss(x, y, KEY)
    torch.testing.assert_close(terms["ce"], cross_entropy_by_hand(tiny()((x + 0.2).clamp(0, 1)), y))


def test_noise_training_is_adversarial_training_with_noise():
    x, y, _ = batch()
    terms = AdversarialTraining(tiny(), attack=GaussianNoise(sigma=0.3)).loss(x, y, KEY)
    noisy = (x + 0.3 * sampling.Noise(KEY).normal("gaussian", (1, 4, 4), dtype=x.dtype)).clamp(0, 1)
    torch.testing.assert_close(terms["ce"], cross_entropy_by_hand(tiny()(noisy), y))


@pytest.mark.parametrize("beta", [6.0, 1.5])
def test_trades(beta):
    x, y, _ = batch()
    regime = TRADES(tiny(), attack=Spy(shift=0.2), beta=beta)
    terms = regime.loss(x, y, KEY)
    assert list(terms) == ["ce", "kl"]
    # Separate forward passes: each is normalised by the statistics of its own batch.
    clean, attacked = tiny()(x), tiny()((x + 0.2).clamp(0, 1))
    torch.testing.assert_close(terms["ce"], cross_entropy_by_hand(clean, y))
    torch.testing.assert_close(terms["kl"], beta * kl_by_hand(clean, attacked))
    jointly = tiny()(torch.cat([x, (x + 0.2).clamp(0, 1)]))
    assert (terms["kl"] - beta * kl_by_hand(*jointly.chunk(2))).abs() > 1e-2


def test_trades_gradient_flows_through_the_target():
    x, y, _ = batch()
    regime, net = TRADES(tiny(), attack=Spy(shift=0.2)), tiny()
    sum(regime.loss(x, y, KEY).values()).backward()
    x_adv = (x + 0.2).clamp(0, 1)
    clean, attacked = net(x), net(x_adv)
    (cross_entropy_by_hand(clean, y) + 6 * kl_by_hand(clean, attacked)).backward()
    for mine, by_hand in zip(regime.network.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, by_hand.grad)
    detached = tiny()
    clean, attacked = detached(x), detached(x_adv)
    (cross_entropy_by_hand(clean, y) + 6 * kl_by_hand(clean.detach(), attacked)).backward()
    assert (detached[4].weight.grad - net[4].weight.grad).abs().max() > 1e-3


def test_trades_attack_climbs_the_divergence_from_the_clean_prediction():
    x, y, _ = batch()
    spy = Spy()
    TRADES(tiny(), attack=spy).loss(x, y, KEY)
    target = spy.seen[0]["y"]
    clean = tiny().eval()(x).softmax(1)
    torch.testing.assert_close(target, clean)
    # Cross-entropy to that target has the input gradient of the divergence.
    x_adv = (x + 0.05).requires_grad_()
    net = tiny().eval()
    (soft,) = torch.autograd.grad(cross_entropy(net(x_adv), target).sum(), x_adv)
    (kl,) = torch.autograd.grad(len(x) * kl_by_hand(net(x), net(x_adv)), x_adv)
    torch.testing.assert_close(soft, kl)
    assert kl.abs().max() > 1e-3


@pytest.mark.parametrize("start", ["gaussian", "random"])
def test_trades_inner_attack_moves(start):
    x, y, _ = batch()
    attack = PGD(threat=LINF, steps=10, step_size="eps/4", start=start)
    still = TRADES(tiny(), attack=PGD(threat=LINF, steps=0, start=start))
    assert TRADES(tiny(), attack=attack).loss(x, y, KEY)["kl"] > 1.5 * still.loss(x, y, KEY)["kl"]


@pytest.mark.parametrize(
    "attack",
    [
        FGSM(threat=LINF),
        PGD(threat=LINF, start="clean"),
        Restarts(attack=PGD(threat=LINF, start="clean"), n=2),
        WorstOf(attacks=[PGD(threat=LINF), FGSM(threat=LINF)]),
    ],
    ids=["fgsm", "pgd", "restarts", "worst of"],
)
def test_trades_refuses_to_start_at_the_clean_image(attack):
    with pytest.raises(UserError, match=r"start: clean.*set start: gaussian"):
        TRADES(tiny(), attack=attack)


def test_there_the_gradient_is_zero():
    x, _, _ = batch()
    net = tiny().eval()
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(net(x), net(x).softmax(1).detach()).sum(), x)
    assert gradient.abs().max() < 1e-12


# --- the mode of the network during the attack ---


def moved(before, net):
    return {name for name, value in statistics(net).items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("regime", [AdversarialTraining, TRADES])
@pytest.mark.parametrize(
    ("options", "training", "moves"),
    [
        ({}, False, False),
        ({"attack_mode": "eval", "attack_moves_statistics": True}, False, False),
        ({"attack_mode": "train"}, True, False),
        ({"attack_mode": "train", "attack_moves_statistics": True}, True, True),
    ],
)
def test_the_attack_s_mode_and_what_it_does_to_the_statistics(regime, options, training, moves):
    x, _, _ = batch()
    spy, net = Spy(), tiny()
    regime = regime(net, attack=spy, **options)
    before = statistics(net)
    modes = [m.training for m in net.modules()]
    with regime.attacking() as attacked:
        spy(attacked, x, torch.zeros(6, dtype=torch.long))
    assert spy.seen[0]["modes"] == {training}
    assert moved(before, net) == ({"2.running_mean", "2.running_var", "2.num_batches_tracked"} if moves else set())
    assert [m.training for m in net.modules()] == modes


@pytest.mark.parametrize(
    ("regime", "passes"),
    # An attack that looks once; TRADES looks at the clean images for its target, and updates with two passes.
    [(AdversarialTraining, (1, 2)), (TRADES, (2, 4))],
)
def test_a_step_counts_the_forward_passes_that_move_statistics(regime, passes):
    x, y, _ = batch()
    for moves, expected in zip((False, True), passes, strict=True):
        net = tiny()
        before = int(net[2].num_batches_tracked)
        regime(net, attack=Spy(), attack_mode="train", attack_moves_statistics=moves).loss(x, y, KEY)
        assert int(net[2].num_batches_tracked) - before == expected


def test_a_network_with_parts_in_eval_mode_gets_them_back():
    x, y, _ = batch()
    net = tiny()
    net[2].eval()
    before = statistics(net)
    AdversarialTraining(net, attack=Spy(), attack_mode="train", attack_moves_statistics=False).loss(x, y, KEY)
    assert net.training
    assert not net[2].training
    assert moved(before, net) == set()


# --- random networks ---


def test_the_update_draws_other_noise_than_the_attack_saw():
    drawn = []

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.noise, self.net = AdditiveNoise(0.5), tiny()

        def forward(self, x):
            noisy = self.noise(x)
            drawn.append(noisy - x)
            return self.net(noisy)

    regime = AdversarialTraining(Watched(), attack=FGSM(threat=LINF))
    regime.log, regime._trainer = lambda *_, **__: None, None
    regime.training_step(batch(), 0)
    assert len(drawn) == 2
    assert (drawn[0] - drawn[1]).abs().min() > 1e-9


def test_clean_cross_entropy_is_pytorch_s():
    x, y, _ = batch()
    torch.testing.assert_close(cross_entropy_by_hand(tiny()(x), y), F.cross_entropy(tiny()(x), y))
