"""Transfer: the adversarials of the surrogates, for a network that is never asked."""

import pytest
import torch
from linear import Noisy, broken, classified, cnn, falsified, keys
from torch import nn

from lit_robust.attacks import APGD, EOT, FMN, PGD, GaussianNoise, Transfer
from lit_robust.counting import CountingModel
from lit_robust.errors import UserError
from lit_robust.evaluation.protocol import describe
from lit_robust.threat import ThreatModel

N = 24
LINF = ThreatModel("8/255")
PGD5 = PGD(threat=LINF, steps=5)


class Mean(nn.Module):
    """The logarithm of the mean of probabilities."""

    def __init__(self, models):
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, x):
        return torch.stack([model(x).softmax(1) for model in self.models]).mean(0).log()


@pytest.fixture
def case():
    victim = cnn(seed=0)
    return victim, *classified(victim, N)


def answers(attack, model, x, y):
    return attack(model, x, y, key=keys(N)), falsified(attack, model, x, y)


def test_adversarials_are_those_of_the_surrogate_and_the_network_is_not_asked(case):
    victim, x, y = case
    surrogate, counting = cnn(seed=1), CountingModel(victim, keys(N))
    expected = PGD5(surrogate, x, y, key=keys(N))
    for x_adv in answers(Transfer(attack=PGD5, surrogates=[surrogate]), counting, x, y):
        assert torch.equal(x_adv, expected)
    assert counting.forwards.sum() == counting.backwards.sum() == 0
    assert broken(surrogate, expected, y).any()


def test_it_runs_to_the_end_where_the_surrogate_is_broken_already(case):
    # What the surrogate gets wrong from the start is not yet an adversarial of the network.
    victim, x, y = case
    surrogate = cnn(seed=1)
    wrong = broken(surrogate, x, y)
    assert wrong.any()
    x_adv = falsified(Transfer(attack=PGD5, surrogates=[surrogate]), victim, x, y)
    assert ((x_adv - x)[wrong].flatten(1).abs().amax(1) > 4 / 255).all()


def test_the_network_itself_is_its_best_surrogate(case):
    victim, x, y = case
    own = falsified(Transfer(attack=PGD5, surrogates=[victim]), victim, x, y)
    other = falsified(Transfer(attack=PGD5, surrogates=[cnn(seed=1)]), victim, x, y)
    assert broken(victim, own, y).sum() > broken(victim, other, y).sum()


def test_several_surrogates_are_attacked_through_the_mean_of_their_probabilities(case):
    victim, x, y = case
    surrogates = [cnn(seed=seed) for seed in (1, 2, 3)]
    expected = PGD5(Mean(surrogates), x, y, key=keys(N))
    for x_adv in answers(Transfer(attack=PGD5, surrogates=surrogates), victim, x, y):
        torch.testing.assert_close(x_adv, expected, rtol=0, atol=1e-12)
    assert not torch.equal(expected, PGD5(surrogates[0], x, y, key=keys(N)))


def test_a_probability_that_vanishes_in_single_precision_has_a_gradient_still():
    confident = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    with torch.no_grad():
        confident[1].weight.mul_(2000)
    x, y = classified(confident, 6, size=2, dtype=torch.float32)
    y = (y + 1) % 3
    assert (confident(x).softmax(1).gather(1, y[:, None]) == 0).sum() > 3
    x_adv = Transfer(attack=PGD5, surrogates=[confident, confident])(nn.Identity(), x, y, key=keys(6))
    expected = PGD5(confident, x, y, key=keys(6))
    assert x_adv.isfinite().all()
    torch.testing.assert_close(x_adv, expected, rtol=0, atol=1e-4)


def test_surrogates_are_left_as_they_were(case):
    victim, x, y = case
    surrogate = cnn(seed=1, norm=True).train()
    surrogate[0].requires_grad_(False)
    surrogate[2].eval()
    modes = [module.training for module in surrogate.modules()]
    grads = [p.requires_grad for p in surrogate.parameters()]
    state = {name: value.clone() for name, value in surrogate.state_dict().items()}
    x_adv = Transfer(attack=PGD5, surrogates=[surrogate])(victim, x, y, key=keys(N))
    assert [module.training for module in surrogate.modules()] == modes
    assert True in modes
    assert False in modes
    assert [p.requires_grad for p in surrogate.parameters()] == grads
    assert all(p.grad is None for p in surrogate.parameters())
    assert all(torch.equal(value, state[name]) for name, value in surrogate.state_dict().items())
    assert torch.equal(x_adv, PGD5(surrogate.eval(), x, y, key=keys(N)))  # in eval mode meanwhile


def test_a_surrogate_of_another_precision_is_left_in_it(case):
    victim, x, y = case
    surrogate = cnn(seed=1).double()
    state = {name: value.clone() for name, value in surrogate.state_dict().items()}
    x_adv = Transfer(attack=PGD5, surrogates=[surrogate])(victim, x, y, key=keys(N))
    assert x_adv.dtype == x.dtype
    assert {value.dtype for value in surrogate.state_dict().values()} == {torch.float64}
    for name, value in surrogate.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=1e-6, atol=1e-7)  # there and back through x's float32


def test_a_surrogate_that_fails_is_left_as_it_was_too(case):
    victim, x, y = case

    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x):
            raise RuntimeError("out of memory")

    surrogate = Fails().train()
    with pytest.raises(RuntimeError, match="out of memory"):
        Transfer(attack=PGD5, surrogates=[surrogate])(victim, x, y, key=keys(N))
    assert surrogate.training
    assert surrogate.weight.requires_grad


@pytest.mark.parametrize("attack", [APGD(threat=LINF, steps=4), EOT(attack=PGD5, draws=2)], ids=str)
def test_a_random_surrogate_draws_from_the_sample_s_streams(case, attack):
    victim, x, y = case
    transfer = Transfer(attack=attack, surrogates=[Noisy(cnn(seed=1), 0.05)])
    whole = transfer(victim, x, y, key=keys(N))
    halves = [transfer(victim, x[r], y[r], key=keys(N)[r]) for r in torch.arange(N).split(N // 2)]
    torch.testing.assert_close(torch.cat(halves), whole, rtol=0, atol=1e-9)


def test_the_nearest_adversarials_of_a_surrogate_are_brought_into_the_radius(case):
    victim, x, y = case
    surrogate, threat = cnn(seed=1), ThreatModel("0.1", "l2")
    nearest = FMN(norm="l2", eps="0.1", steps=10)
    assert (threat.distance(nearest(surrogate, x, y, key=keys(N)), x) > 0.1).any()
    transfer = Transfer(attack=nearest, surrogates=[surrogate])
    assert transfer.threat_model == threat
    assert threat.contains(transfer(victim, x, y, key=keys(N)), x).all()


def test_it_says_what_it_is():
    class Small(nn.Linear):
        def extra_repr(self):
            return "runs/small/1"

    attack = Transfer(attack=PGD5, surrogates=[Small(1, 1), nn.Identity()])
    assert attack.label == "PGD-5 transferred"
    assert str(attack) == f"{PGD5}, transferred from Small, Identity"
    assert attack.passes(10) == attack.attack.passes(10)
    assert attack.adversarial
    assert Transfer(attack=PGD(threat=LINF, targeted=True), surrogates=[nn.Identity()]).targeted
    assert any("runs/small/1" in part for part in describe(attack)["surrogates"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attack": PGD5, "surrogates": []}, "expected one surrogate or more, got none"),
        ({"attack": FMN(norm="l2"), "surrogates": [nn.Identity()]}, "FMN-.* has no radius, and the nearest"),
    ],
    ids=["surrogates", "radius"],
)
def test_what_cannot_transfer_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        Transfer(**options)


def test_noise_that_is_transferred_is_noise():
    assert not Transfer(attack=GaussianNoise(sigma=0.1), surrogates=[nn.Identity()]).adversarial
