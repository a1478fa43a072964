import dataclasses
import math

import pytest
import torch
from linear import batch, cnn, keys

from lit_robust.attacks import (
    APGD,
    BIM,
    FGSM,
    PGD,
    RFGSM,
    Attack,
    GaussianNoise,
    RadialPGD,
    Restarts,
    TargetedAPGD,
    WorstOf,
)
from lit_robust.errors import UserError
from lit_robust.losses import dlr
from lit_robust.threat import ThreatModel

LINF = ThreatModel("8/255")
KINDS = [FGSM, RFGSM, BIM, PGD, RadialPGD]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": -1}, "expected steps to be 0 or more, got -1"),
        ({"step_size": 0}, "expected step_size to be above 0, got 0"),
        ({"step_size": -0.01}, "expected step_size to be above 0, got -0.01"),
        ({"step_size": "-1*eps"}, r"expected step_size to be above 0, got '-1\*eps'"),
        ({"step_size": "quick"}, "expected step_size to be a number or a ratio"),
        ({"step_size": math.inf}, "expected step_size to be finite"),
        ({"l1_share": 0}, "expected l1_share to be above 0 and at most 1, got 0"),
        ({"l1_share": 1.5}, "expected l1_share to be above 0 and at most 1, got 1.5"),
        ({"threat": ThreatModel(3, "l0")}, "L0 has no gradient step; use a minimum-norm attack"),
    ],
    ids=str,
)
def test_impossible_options_are_refused(kind, options, message):
    with pytest.raises(UserError, match=message):
        kind(**{"threat": LINF, **options})


def test_radial_pgd_needs_a_ball():
    with pytest.raises(UserError, match="RadialPGD scales to a ball; the box has none"):
        RadialPGD(threat=ThreatModel.box())


@pytest.mark.parametrize("n", [0, -3])
def test_restarts_need_at_least_one(n):
    with pytest.raises(UserError, match=f"expected at least 1 restart, got {n}"):
        Restarts(attack=FGSM(threat=LINF), n=n)


@pytest.mark.parametrize(
    ("threats", "named"),
    [
        ([LINF, ThreatModel("4/255")], "L∞ 4/255, L∞ 8/255"),
        ([LINF, ThreatModel("0.5", "l2")], "L2 0.5, L∞ 8/255"),
        ([], "none"),
    ],
)
def test_worst_of_needs_attacks_of_one_threat_model(threats, named):
    with pytest.raises(UserError, match=f"expected one or more attacks of one threat model, got {named}; "):
        WorstOf(attacks=[FGSM(threat=threat) for threat in threats])


def test_worst_of_refuses_noise_beside_an_adversary():
    with pytest.raises(UserError, match="one threat model, got L∞ 8/255, box"):
        WorstOf(attacks=[FGSM(threat=LINF), GaussianNoise(sigma=0.1)])


def test_worst_of_tells_threats_apart_that_print_alike():
    near = [ThreatModel("1/7"), ThreatModel("0.142857")]
    assert near[0] != near[1]
    with pytest.raises(UserError, match="one threat model"):
        WorstOf(attacks=[FGSM(threat=threat) for threat in near])


def test_worst_of_refuses_targeted_beside_untargeted():
    with pytest.raises(UserError, match="expected attacks that are all targeted or all untargeted, got both"):
        WorstOf(attacks=[FGSM(threat=LINF), FGSM(threat=LINF, targeted=True)])


@pytest.mark.parametrize("attack", [FGSM(threat=LINF), TargetedAPGD(threat=LINF), GaussianNoise(sigma=0.1)], ids=str)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda x, y, k: ((255 * x).to(torch.uint8), y, k),
            r"floating-point images in \[0, 1\], got torch.uint8; divide",
        ),
        (lambda x, y, k: (255 * x, y, k), r"expected images in \[0, 1\], got values from .*lit_robust.nn.Standardize"),
        (lambda x, y, k: (x - 0.5, y, k), r"expected images in \[0, 1\], got values from -0\."),
        (lambda x, y, k: (x * math.nan, y, k), r"expected images in \[0, 1\], got values from nan to nan"),
        (lambda x, y, k: (x, y[:7], k), "expected as many labels as images, got 7 for 8"),
        (lambda x, y, k: (x, y, k[:5]), "expected as many keys as images, got 5 for 8"),
    ],
    ids=["uint8", "0 to 255", "standardised", "nan", "labels", "keys"],
)
def test_bad_input_is_refused_with_a_way_out(attack, change, message):
    x, y, key = change(*batch(8), keys(8))
    with pytest.raises(ValueError, match=message):
        attack(cnn(), x, y, key=key)


def test_dlr_on_two_classes_says_which_loss_to_use():
    with pytest.raises(ValueError, match="needs at least 3 classes, got 2; use negative_margin"):
        FGSM(threat=LINF, loss=dlr)(cnn(classes=2), *batch(classes=2))


@pytest.mark.parametrize("kind", [*KINDS, APGD, TargetedAPGD])
def test_attacks_are_frozen_configurations_that_compare_by_value(kind):
    attack = kind(threat=LINF)
    assert isinstance(attack, Attack)
    assert attack == kind(threat=ThreatModel(8 / 255))
    assert attack != kind(threat=ThreatModel("4/255"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        attack.steps = 5
    with pytest.raises(TypeError):
        kind(LINF)  # by keyword only
