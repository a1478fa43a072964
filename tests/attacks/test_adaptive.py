"""Adaptive attacks outside of evaluation: the worst case over every combination of backward passes."""

import pytest
import torch
from linear import broken, classified, cnn, falsified, keys
from test_through import LINF, PGD5, Round, Ternary, defended
from torch import nn

from lit_robust.attacks import EOT, FMN, PGD, AutoAttack, GaussianNoise, WorstOf
from lit_robust.attacks.adaptive import Adaptive
from lit_robust.attacks.minimum_norm import counted_in
from lit_robust.attacks.through import Through
from lit_robust.counting import CountingModel
from lit_robust.errors import UserError
from lit_robust.threat import ThreatModel

N = 12


def test_members_are_the_attack_through_each_combination():
    model = nn.Sequential(Ternary(), Round())
    adaptive = Adaptive(attack=PGD5, surrogates={"1": ["identity", "smooth(0.1)"]})
    assert adaptive.members(model) == {
        "1=identity": Through(attack=PGD5, backward={"0": "exact", "1": "identity"}),
        "1=smooth(0.1)": Through(attack=PGD5, backward={"0": "exact", "1": "smooth(0.1)"}),
        "0=identity 1=identity": Through(attack=PGD5, backward={"0": "identity", "1": "identity"}),
        "0=identity 1=smooth(0.1)": Through(attack=PGD5, backward={"0": "identity", "1": "smooth(0.1)"}),
    }
    assert Adaptive(attack=PGD5).members(nn.Sequential(Round())) == {"default": PGD5}


def test_alone_it_is_the_worst_case_over_every_combination():
    model = defended(Ternary())
    x, y = classified(model, N, low=0.2, high=0.8)
    adaptive = Adaptive(attack=PGD5)
    members = list(adaptive.members(model).values())
    assert len(members) == 2
    assert torch.equal(adaptive(model, x, y, key=keys(N)), WorstOf(attacks=members)(model, x, y, key=keys(N)))
    found = broken(model, falsified(adaptive, CountingModel(model, keys(N)), x, y), y)
    each = [broken(model, falsified(member, model, x, y), y) for member in members]
    assert torch.equal(found, each[0] | each[1])
    assert found.sum() > each[0].sum()


def test_a_network_without_choices_is_attacked_as_it_is():
    model = cnn()
    x, y = classified(model, N)
    assert torch.equal(falsified(Adaptive(attack=PGD5), model, x, y), falsified(PGD5, model, x, y))


def test_it_says_what_it_is():
    adaptive = Adaptive(attack=PGD5)
    assert adaptive.label == "PGD-5 adaptive"
    assert str(adaptive) == f"{PGD5}, adaptive"
    assert adaptive.passes(10) is None
    assert adaptive.adversarial
    assert not Adaptive(attack=GaussianNoise(sigma=0.1)).adversarial
    assert Adaptive(attack=PGD(threat=LINF, targeted=True)).targeted
    for attack in (AutoAttack(threat=LINF), WorstOf(attacks=[PGD5]), EOT(attack=PGD5, draws=2)):
        assert Adaptive(attack=attack).threat_model == LINF
    nearest = Adaptive(attack=FMN(norm="l2", eps="0.5"))
    assert nearest.threat_model == counted_in(nearest) == ThreatModel("0.5", "l2")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"screen": 0}, "expected screen and keep to be at least 1, got 0 and 3"),
        ({"keep": 0}, "expected screen and keep to be at least 1, got 50 and 0"),
        ({"attack": Adaptive(attack=PGD5)}, "adaptive already"),
        ({"attack": FMN(norm="l2")}, "FMN-100 looks for the nearest adversarial at any distance, .* set its eps"),
    ],
)
def test_what_cannot_be_screened_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        Adaptive(**{"attack": PGD5, **options})
