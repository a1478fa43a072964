"""What an evaluation is said to cost before it begins."""

import pytest
import torch
from evaluated import images, network

from lit_robust.attacks import PGD, AutoAttack
from lit_robust.attacks.base import Attack
from lit_robust.errors import UserError
from lit_robust.evaluation.budget import Cost, cost, seconds
from lit_robust.threat import ThreatModel

LINF = ThreatModel("4/255")


class Silent(Attack):
    threat_model = LINF

    def search(self, model, x, y, noise):
        return x


@pytest.mark.parametrize(("text", "expected"), [("90s", 90), ("30min", 1800), ("1.5h", 5400), (" 2 d ", 172_800)])
def test_a_time_is_in_seconds(text, expected):
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "30", "0min", "-1h", "half an hour", "1w"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(UserError, match="30min"):
        seconds(text)


def test_passes_of_all_attacks_are_added_and_take_time():
    model = network(dtype=torch.float32)
    x, _ = images(model, 8)
    attacks = {"pgd": PGD(threat=LINF, steps=7), "aa": AutoAttack(threat=LINF)}
    found = cost(model, x, attacks, classes=4)
    forwards, backwards = attacks["aa"].passes(4)
    assert (found.forwards, found.backwards) == (7 + forwards, 7 + backwards)
    assert found.seconds > 0


def test_an_attack_that_does_not_know_its_passes_leaves_the_cost_open():
    model = network(dtype=torch.float32)
    assert cost(model, images(model, 8)[0], {"pgd": PGD(threat=LINF), "own": Silent()}, classes=4) is None


def test_a_budget_is_enough_for_as_many_samples_as_it_pays():
    each = Cost(forwards=10, backwards=5, seconds=0.5)
    assert each.samples(60, processes=1) == 120
    assert each.samples(60, processes=2) == 240
    assert each.samples(0.4, processes=1) == 0
    said = each.describe(120, processes=2)
    assert said.startswith("120 samples, at most 10 forward and 5 backward passes each: about 30 s")
    assert "17.6 points wide" in said
