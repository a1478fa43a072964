"""The same attack at another radius: all that it is made of, and nothing else, changes."""

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from torch import nn

from lit_robust.attacks import (
    APGD,
    EOT,
    FMN,
    PGD,
    Adaptive,
    AutoAttack,
    GaussianNoise,
    Restarts,
    Square,
    Through,
    Transfer,
    WorstOf,
)
from lit_robust.attacks.at_radius import at_radius
from lit_robust.attacks.minimum_norm import counted_in
from lit_robust.errors import UserError
from lit_robust.threat import ThreatModel

L2 = ThreatModel(1, "l2")
PGD4 = PGD(threat=L2, steps=4, step_size="eps/2")
SURROGATE = nn.Linear(2, 2)


def every(threat):
    pgd = replace(PGD4, threat=threat)
    return [
        pgd,
        APGD(threat=threat, steps=7),
        Square(threat=threat, queries=9),
        AutoAttack(threat=threat, version="plus"),
        FMN(norm="l2", eps=threat.eps, steps=5),
        Restarts(attack=EOT(attack=pgd, draws=3), n=2),
        WorstOf(attacks=[pgd, APGD(threat=threat)]),
        Adaptive(attack=Through(attack=pgd, backward={"x": "identity"}), screen=7),
        Transfer(attack=pgd, surrogates=[SURROGATE]),
    ]


@pytest.mark.parametrize("number", range(9))
def test_only_the_radius_changes(number):
    attack = every(L2)[number]
    assert at_radius(attack, "1/2") == every(ThreatModel(0.5, "l2"))[number]
    assert counted_in(at_radius(attack, 0.25)).exact == Fraction(1, 4)
    assert attack == every(L2)[number]


def test_a_step_in_units_of_the_radius_follows():
    model, x, y = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), torch.full((3, 1, 2, 2), 0.5), torch.zeros(3).long()
    one = PGD(threat=ThreatModel(0.2), steps=1, step_size="eps/2", start="clean")
    assert torch.allclose((at_radius(one, 0.1)(model, x, y) - x).abs(), torch.full_like(x, 0.05))


def test_what_has_no_radius_is_refused():
    with pytest.raises(UserError, match="expected an attack with a radius"):
        at_radius(GaussianNoise(sigma=0.1), 0.1)
    with pytest.raises(UserError, match="eps"):
        at_radius(PGD4, -1)
