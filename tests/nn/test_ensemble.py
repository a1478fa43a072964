"""The ensemble of the draws of a random network."""

import pytest
import torch
from torch import nn

from lit_robust import sampling
from lit_robust.errors import UserError
from lit_robust.nn import AdditiveNoise, Expectation
from lit_robust.nn.ensemble import Ensemble

X, KEY = torch.rand(5, 1, 2, 2, generator=torch.Generator().manual_seed(0)), torch.arange(5)


def random_network():
    torch.manual_seed(0)
    return nn.Sequential(AdditiveNoise(0.5), nn.Flatten(), nn.Linear(4, 3))


def test_it_predicts_the_mean_softmax_of_its_draws():
    network = random_network()
    with sampling.keyed(KEY):
        draws = torch.stack([network(X) for _ in range(10)])  # the passes of one `keyed` count on
    with sampling.keyed(KEY):
        logits = Ensemble(network).eval()(X)
    torch.testing.assert_close(logits.exp(), draws.softmax(2).mean(0))
    assert not torch.allclose(draws[0], draws[1])


def test_training_sees_one_draw():
    network = random_network()
    ensemble = Ensemble(network, draws=4).train()
    passes = []
    network[2].register_forward_hook(lambda *_: passes.append(1))
    with sampling.keyed(KEY):
        trained = ensemble(X)
    assert len(passes) == 1
    with sampling.keyed(KEY):
        assert torch.equal(trained, network(X))
    ensemble.eval()(X)
    assert len(passes) == 1 + 1 + 4


def test_it_is_an_expectation_of_the_network_inside():
    network = random_network()
    ensemble = Ensemble(network, draws=7)
    assert isinstance(ensemble, Expectation)
    assert (ensemble.model, ensemble.draws, ensemble.reduce) == (network, 7, "probs")
    assert ensemble.deployed


def test_no_draw_is_refused():
    with pytest.raises(UserError, match="draws to be at least 1, got 0"):
        Ensemble(random_network(), draws=0)
