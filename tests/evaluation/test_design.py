"""What is said of attacks beyond the radius that a sparse code was designed for."""

import pytest
from torch import nn

from lit_robust.attacks import FMN, PGD, GaussianNoise
from lit_robust.evaluation.design import design_notes
from lit_robust.nn.code_activation import CodeActivation
from lit_robust.threat import ThreatModel


def notes(eps, *, beta=3.0, norm="linf"):
    network = nn.Sequential(nn.Flatten(), CodeActivation("8/255", beta=beta))
    return design_notes(network, {"pgd": PGD(threat=ThreatModel(eps, norm))})


@pytest.mark.parametrize("eps", ["1/255", "8/255"])
def test_up_to_the_designs_radius_nothing_is_said(eps):
    assert notes(eps) == []


@pytest.mark.parametrize(
    ("eps", "end"),
    [
        ("8.5/255", "designed for"),
        ("24/255", "designed for"),
        ("24.5/255", "the coefficient behind an entry can change its sign"),
        ("48/255", "the coefficient behind an entry can change its sign"),
        ("49/255", "entries of the code can change their sign"),
    ],
)
def test_beyond_it_what_can_happen_is_said(eps, end):
    (note,) = notes(eps)
    assert note.startswith(f"pgd: L∞ {eps} is above the 8/255 that the sparse code was designed for")
    assert note.endswith(end)


def test_other_norms_noise_and_other_networks_are_left_out():
    assert notes(3, norm="l2") == []
    attacks = {"noise": GaussianNoise(sigma=0.5), "fmn": FMN(norm="linf"), "pgd": PGD(threat=ThreatModel(0.5))}
    assert design_notes(nn.Sequential(CodeActivation("8/255")), {n: attacks[n] for n in ("noise", "fmn")}) == []
    assert design_notes(nn.Linear(2, 2), attacks) == []
