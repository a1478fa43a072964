"""Rows of an evaluation and the cascades that they are in."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from lit_robust.attacks import FGSM, FMN, PGD, AutoAttack, GaussianNoise
from lit_robust.evaluation import evaluate_block, suite
from lit_robust.nn import AdditiveNoise, Pipeline
from lit_robust.threat import ThreatModel

LINF = ThreatModel("8/255")
AUTO = AutoAttack(threat=LINF)
SINGLE = {"fgsm": FGSM(threat=LINF), "noise": GaussianNoise(sigma=0.1), "fmn": FMN(norm="l2")}


def test_single_attacks_are_their_own_rows_in_no_cascade():
    assert suite.rows(SINGLE, cascade=False) == (SINGLE, {})
    assert suite.rows({}, cascade=True) == ({}, {})


def test_one_cascade_takes_in_all():
    found, cascades = suite.rows(SINGLE, cascade=True)
    assert found == SINGLE
    assert set(cascades) == set(SINGLE)
    assert len(set(cascades.values())) == 1


@pytest.mark.parametrize("version", ["standard", "plus", "rand"])
def test_the_members_of_an_ensemble_are_rows_and_a_cascade_of_their_own(version):
    auto = AutoAttack(threat=LINF, version=version)
    found, cascades = suite.rows({"fgsm": SINGLE["fgsm"], "aa": auto, "two": AUTO}, cascade=False)
    one, two = [f"aa/{name}" for name in auto.members], [f"two/{name}" for name in AUTO.members]
    assert list(found) == ["fgsm", *one, *two]  # in their order
    assert [found[name] for name in one] == list(auto.members.values())
    assert cascades == dict.fromkeys(one, "aa") | dict.fromkeys(two, "two")


def test_one_cascade_takes_in_the_members_too():
    found, cascades = suite.rows({"pgd": PGD(threat=LINF), "aa": AUTO}, cascade=True)
    assert list(cascades) == list(found)
    assert len(found) == 5
    assert len(set(cascades.values())) == 1


def few(member):
    """A member of few steps or queries."""
    return replace(member, queries=10) if hasattr(member, "queries") else replace(member, steps=4)


@pytest.mark.parametrize("random", [False, True])
@pytest.mark.parametrize("classes", [2, 3, 4])
def test_members_see_what_those_before_them_left_and_their_worst_case_is_the_ensemble_s(classes, random):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(96, classes)).double().eval()
    model = Pipeline([AdditiveNoise(0.002), model]).eval() if random else model
    x = torch.rand(30, 3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        y = model(x).argmax(1)
    found, cascades = suite.rows({"aa": AutoAttack(threat=ThreatModel("2/255"))}, cascade=False)
    found = {name: few(member) for name, member in found.items()}
    result = evaluate_block(model, x, y, torch.arange(30), found, size=30, cascades=cascades, draws=3)
    assert list(result.verdicts) == ["clean", "aa/apgd-ce", "aa/apgd-t", "aa/fab-t", "aa/square"]
    before = result.verdicts["clean"]
    for name in found:
        verdict = result.verdicts[name]
        assert torch.equal(verdict.forwards == 0, before.right_before == 0)
        assert ThreatModel("2/255").contains(verdict.x_adv, x).all() or "fab" in name
        if not random:
            assert (verdict.broken >= before.broken).all()
            alone = evaluate_block(model, x, y, torch.arange(30), {name: found[name]}, size=30).verdicts[name]
            assert torch.equal(verdict.broken, before.broken | alone.broken)
        before = verdict
    assert 0 < before.broken.sum() < 30
