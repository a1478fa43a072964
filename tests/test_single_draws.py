"""EOT takes the expectation itself: inside it an ensemble predicts by one draw, outside by all of its own."""

import pytest
import torch
from torch import nn

from lit_robust.attacks import EOT, PGD
from lit_robust.expectation import Expectation, single_draws
from lit_robust.nn import AdditiveNoise, Ensemble, Pipeline
from lit_robust.threat import ThreatModel

X = torch.rand(4, 1, 2, 2, generator=torch.Generator().manual_seed(0))
Y, KEY = torch.tensor([0, 1, 2, 0]), torch.arange(4)


def network():
    torch.manual_seed(0)
    return nn.Sequential(AdditiveNoise(0.2), nn.Flatten(), nn.Linear(4, 3)).eval()


def test_only_ensembles_that_are_deployed_are_taken_apart_and_all_are_put_back():
    inner, other = Ensemble(network(), 5), Expectation(network(), 7)
    model = Pipeline([nn.Sequential(inner), other])

    def fails():
        with single_draws(model):
            assert (inner.draws, other.draws) == (1, 7)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert (inner.draws, other.draws) == (5, 7)


@pytest.mark.parametrize("falsify", [False, True])
def test_eot_on_an_ensemble_is_eot_on_the_network_inside(falsify):
    passes, inside = [], network()
    inside.register_forward_hook(lambda *_: passes.append(1))
    attack = EOT(attack=PGD(threat=ThreatModel(0.1), steps=3), draws=4)

    def found(model):
        passes.clear()
        if not falsify:
            return attack(model, X, Y, key=KEY), len(passes)
        from lit_robust.attacks.base import prepare, searching

        with searching(model):
            return attack.falsify(model, *prepare(X, Y, KEY), leave=False).detach(), len(passes)

    alone, of_ensemble = found(inside), found(Ensemble(inside, 10).eval())
    torch.testing.assert_close(alone[0], of_ensemble[0], atol=1e-6, rtol=0)
    assert alone[1] == of_ensemble[1]


def test_an_attack_without_eot_sees_the_ensemble():
    passes, inside = [], network()
    inside.register_forward_hook(lambda *_: passes.append(1))
    PGD(threat=ThreatModel(0.1), steps=3)(Ensemble(inside, 10).eval(), X, Y, key=KEY)
    assert len(passes) % 10 == 0
    assert len(passes) >= 30


def test_eot_of_eot_stays_a_product():
    passes, inside = [], network()
    inside.register_forward_hook(lambda *_: passes.append(1))
    one = PGD(threat=ThreatModel(0.1), steps=1)
    EOT(attack=one, draws=6)(inside, X, Y, key=KEY)
    single = len(passes)
    passes.clear()
    EOT(attack=EOT(attack=one, draws=3), draws=2)(inside, X, Y, key=KEY)
    assert len(passes) == single
