"""An attack in words from which it can be built again."""

import json
from fractions import Fraction
from functools import partial

from lit_robust.attacks import BIM, EOT, FGSM, PGD, GaussianNoise, Restarts, WorstOf
from lit_robust.evaluation.protocol import describe
from lit_robust.losses import cw_margin
from lit_robust.threat import ThreatModel

LINF = ThreatModel("8/255")


def test_nested_attacks_are_described_with_every_setting():
    attack = WorstOf(attacks=[EOT(attack=BIM(threat=LINF, steps=3), draws=5), Restarts(attack=FGSM(threat=LINF), n=2)])
    described = describe(attack)
    assert json.loads(json.dumps(described)) == described
    assert described["class"] == "WorstOf"
    eot, restarts = described["attacks"]
    assert {key: eot[key] for key in ("class", "draws", "reduce")} == {"class": "EOT", "draws": 5, "reduce": "probs"}
    assert (eot["attack"]["class"], eot["attack"]["steps"], eot["attack"]["start"]) == ("BIM", 3, "clean")
    assert (restarts["n"], restarts["attack"]["step_size"]) == (2, "eps")


def test_every_field_is_there():
    fields = {"threat", "steps", "step_size", "start", "loss", "targeted", "l1_share"}
    assert set(describe(PGD(threat=LINF))) == {"class", *fields}
    assert describe(GaussianNoise(sigma="8/255")) == {"class": "GaussianNoise", "sigma": "8/255"}


def test_radii_stay_exact():
    assert describe(ThreatModel(8 / 255))["eps"] == describe(LINF)["eps"] == "8/255"
    assert describe(ThreatModel("0.3"))["eps"] == "0.3"
    assert describe(Fraction(2, 255)) == "2/255"


def test_functions_are_named_by_their_path():
    assert describe(PGD(threat=LINF, loss=cw_margin))["loss"] == "lit_robust.losses.cw_margin"
    assert isinstance(describe(partial(cw_margin)), str)


def test_plain_values_stay_as_they_are():
    for value in (None, True, 3, 0.5, "text", [1, [2]], {"a": {"b": None}}):
        assert describe(value) == value
    assert describe((1, 2)) == [1, 2]
    assert describe({1: 2}) == {"1": 2}
