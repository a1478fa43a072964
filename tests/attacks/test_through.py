"""Attacks through chosen backward passes: they see the gradient that was chosen, alone and inside other attacks."""

from collections import OrderedDict

import pytest
import torch
from linear import TwoClasses, broken, classified, cnn, falsified, keys
from torch import nn

from lit_robust import sampling
from lit_robust.attacks import APGD, EOT, FGSM, FMN, PGD, GaussianNoise, Restarts, Transfer, WorstOf
from lit_robust.attacks.minimum_norm import counted_in, minimum_norm
from lit_robust.attacks.through import Through
from lit_robust.backward import SurrogateLayer, replace_gradient
from lit_robust.counting import CountingModel
from lit_robust.errors import UserError
from lit_robust.evaluation.protocol import describe
from lit_robust.threat import ThreatModel

N = 16
LINF = ThreatModel("0.15")
PGD5 = PGD(threat=LINF, steps=5)


class Ternary(SurrogateLayer):
    """½ sgn(x − 0.3) + ½ sgn(x − 0.7); differentiated as it is, which is 0, or as the identity."""

    offered = ("exact", "identity")

    def forward(self, x):
        hard = ((x - 0.3).sign() + (x - 0.7).sign()) / 2
        return hard if self.kind == "exact" else replace_gradient(hard, x)


class Round(nn.Module):
    def forward(self, x):
        return (4 * x).round() / 4


def defended(layer, seed=0):
    return nn.Sequential(layer, cnn(seed=seed, scale=1.0)).eval()


class Straight(nn.Module):
    """The network of `defended` with the identity as the gradient of its first layer, without the package."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model[1](x + (self.model[0](x) - x).detach())


@pytest.fixture(params=[Ternary, Round])
def case(request):
    model = defended(request.param())
    return model, *classified(model, N, low=0.2, high=0.8)


STRAIGHT = {"0": "identity"}
ATTACKS = [
    PGD5,
    APGD(threat=LINF, steps=6),
    Restarts(attack=PGD(threat=LINF, steps=2), n=2),
    WorstOf(attacks=[FGSM(threat=LINF), PGD5]),
    FMN(norm="linf", eps="0.15", steps=6),
    EOT(attack=PGD5, draws=2),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_it_is_the_attack_on_a_network_of_that_gradient(case, attack):
    model, x, y = case
    through = Through(attack=attack, backward=STRAIGHT)
    for run in (lambda a, m: a(m, x, y, key=keys(N)), lambda a, m: falsified(a, m, x, y)):
        found = run(through, model)
        torch.testing.assert_close(found, run(attack, Straight(model)), rtol=0, atol=1e-9)
        assert broken(model, found, y).sum() > broken(model, run(attack, model), y).sum()


def test_the_model_is_as_it_was_also_after_an_error(case):
    model, x, y = case
    exact = falsified(PGD5, model, x, y)
    Through(attack=PGD5, backward=STRAIGHT)(model, x, y, key=keys(N))
    with pytest.raises(ValueError, match="images in"):
        Through(attack=PGD5, backward=STRAIGHT)(model, 2 + x, y, key=keys(N))
    with pytest.raises(IndexError):
        Through(attack=PGD5, backward=STRAIGHT)(model, x, y + 100, key=keys(N))
    assert torch.equal(falsified(PGD5, model, x, y), exact)


class Jitter(nn.Module):
    """A random network."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model((x + 0.05 * sampling.layer_normal(x)).clamp(0, 1))


@pytest.mark.parametrize(
    "options", [{}, {"reduce": "losses"}, {"reduce": "losses", "gradients": "normalized"}], ids=str
)
def test_inside_and_around_an_expectation_it_is_the_same(case, options):
    model, x, y = case
    model = Jitter(model)
    inside = EOT(attack=Through(attack=PGD5, backward=STRAIGHT), draws=3, **options)
    around = Through(attack=EOT(attack=PGD5, draws=3, **options), backward=STRAIGHT)
    found = inside(model, x, y, key=keys(N))
    assert torch.equal(found, around(model, x, y, key=keys(N)))
    assert not torch.equal(found, EOT(attack=PGD5, draws=3, **options)(model, x, y, key=keys(N)))


def test_restarts_and_worst_cases_take_it(case):
    model, x, y = case
    through = Through(attack=PGD5, backward=STRAIGHT)
    restarts = Restarts(attack=through, n=2)
    assert torch.equal(
        falsified(restarts, model, x, y),
        falsified(Through(attack=Restarts(attack=PGD5, n=2), backward=STRAIGHT), model, x, y),
    )
    # The exact gradient shows nothing, so the worst case is what the identity found.
    worst = falsified(WorstOf(attacks=[PGD5, through]), model, x, y)
    both = broken(model, falsified(PGD5, model, x, y), y) | broken(model, falsified(through, model, x, y), y)
    assert torch.equal(broken(model, worst, y), both)


def test_surrogates_of_a_transfer_are_attacked_through_theirs(case):
    model, x, y = case
    named = nn.Sequential(OrderedDict(front=model[0], rest=model[1]))
    through = Through(attack=PGD5, backward={"front": "identity"})
    found = Transfer(attack=through, surrogates=[named, Straight(model)])(cnn(), x, y, key=keys(N))
    expected = Transfer(attack=PGD5, surrogates=[Straight(model), Straight(model)])(cnn(), x, y, key=keys(N))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_a_minimum_norm_attack_stays_one():
    for nearest in (FMN(norm="l2", eps="0.5"), EOT(attack=FMN(norm="l2", eps="0.5"), draws=2)):
        through = Through(attack=nearest, backward=STRAIGHT)
        assert minimum_norm(through) is minimum_norm(nearest)
        assert counted_in(through) == ThreatModel("0.5", "l2")
        assert through.threat_model.eps is None
    inside = EOT(attack=Through(attack=FMN(norm="l2"), backward=STRAIGHT), draws=2)
    assert minimum_norm(inside) == FMN(norm="l2")


def test_passes_are_those_of_the_attack(case):
    model, x, y = case
    counting = CountingModel(model, keys(N))
    Through(attack=PGD5, backward={"0": "smooth(0.1)"} if isinstance(model[0], Round) else STRAIGHT)(
        counting, x, y, key=keys(N)
    )
    assert (counting.forwards == 5).all()
    assert (counting.backwards == 5).all()
    assert Through(attack=PGD5, backward=STRAIGHT).passes(4) == (5, 5)


def test_a_smoothed_step_is_found_where_the_step_shows_no_gradient():
    # Rounding to quarters, smoothed by a box as wide as a step, is the identity; a linear model then gives up its sign.
    model = nn.Sequential(Round(), TwoClasses(torch.tensor([1.0, -1.0, 1.0, 1.0], dtype=torch.float64)))
    x = 0.3 + 0.4 * torch.rand(N, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x, y = (8 * x).floor() / 8 + 0.06, torch.zeros(N, dtype=torch.long)
    attack = FGSM(threat=ThreatModel("0.02"))
    assert torch.equal(attack(model, x, y), x)
    moved = Through(attack=attack, backward={"0": "smooth(0.125)"})(model, x, y) - x
    signs = torch.tensor([-1.0, 1.0, -1.0, -1.0], dtype=torch.float64).view(1, 1, 2, 2)
    torch.testing.assert_close(moved, (0.02 * signs).expand_as(x))


def test_it_says_what_it_is():
    through = Through(attack=PGD(threat=LINF, targeted=True), backward={"0": "identity", "1.2": torch.tanh})
    assert through.label == "PGD-10 through 0=identity 1.2=tanh"
    assert str(through) == f"{through.attack}, through 0=identity 1.2=tanh"
    assert through.threat_model == LINF
    assert through.targeted
    assert through.adversarial
    assert not Through(attack=GaussianNoise(sigma=0.1), backward=STRAIGHT).adversarial
    assert describe(Through(attack=PGD5, backward=STRAIGHT))["backward"] == STRAIGHT


@pytest.mark.parametrize(
    ("backward", "message"),
    [({}, "expected the backward pass of one layer or more, got none"), ({"0": "nowhere.soft"}, "nowhere")],
)
def test_what_cannot_be_is_refused_when_it_is_configured(backward, message):
    with pytest.raises(UserError, match=message):
        Through(attack=PGD5, backward=backward)


def test_layers_that_the_model_does_not_have_are_refused_when_it_is_called(case):
    model, x, y = case
    for backward, message in (({"7": "identity"}, "no layer matches '7'"), ({"0": "sharp"}, "0: ")):
        with pytest.raises(UserError, match=message):
            Through(attack=PGD5, backward=backward)(model, x, y)
