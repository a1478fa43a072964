"""Several passes of a random model at once are the passes one by one."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lit_robust import sampling
from lit_robust.attacks import EOT, PGD
from lit_robust.expectation import Expectation, passes
from lit_robust.nn import AdditiveNoise, Pipeline, SmallCNN
from lit_robust.nn.code_activation import CodeActivation
from lit_robust.nn.code_decoder import CodeDecoder
from lit_robust.nn.code_dropout import CodeDropout
from lit_robust.nn.ensemble import Ensemble
from lit_robust.nn.sparse_encoder import SparseEncoder
from lit_robust.nn.sparse_front_end import SparseFrontEnd
from lit_robust.nn.top_t import TopT
from lit_robust.threat import ThreatModel

X = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))


def sparse(*between):
    torch.manual_seed(0)
    atoms = F.normalize(torch.randn(20, 16)).view(20, 1, 4, 4)
    encoder = SparseEncoder(atoms, stride=2, top=TopT(5), dropout=CodeDropout(0.5), activation=CodeActivation())
    front = SparseFrontEnd(encoder, CodeDecoder(20, (6, 5), in_channels=1))
    with torch.no_grad():
        for parameter in front.decoder.parameters():
            parameter.mul_(3)
        front.decoder.conv3.bias.fill_(0.5)  # grey, so that no pixel is cut off
    return Pipeline([front, *between, SmallCNN(size=16, width=0.25)]).double().eval()


class Counted(nn.Module):
    """Runs a module pass by pass."""

    def __init__(self, model):
        super().__init__()
        self.model, self.calls = model, 0

    def forward(self, x):
        self.calls += 1
        return self.model(x)


def keyed(run, x=X):
    with sampling.keyed(sampling.keys(torch.arange(len(x)))):
        return run(x.double())


def test_a_pipeline_s_draws_are_its_passes():
    model = sparse()
    one_by_one = Counted(model)
    together = keyed(lambda x: passes(model, x, 6))
    torch.testing.assert_close(together, keyed(lambda x: passes(one_by_one, x, 6)))
    assert one_by_one.calls == 6
    assert together.shape == (24, 10)
    assert not torch.allclose(together[:4], together[4:8])


@pytest.mark.parametrize("reduce", ["probs", "log_probs", "logits"])
def test_an_expectation_is_the_same_either_way_and_so_is_its_gradient(reduce):
    model = sparse()
    grads = []
    for inner in (model, Counted(model)):
        leaf = X.double().requires_grad_()
        with sampling.keyed(sampling.keys(torch.arange(4))):
            out = Expectation(inner, 5, reduce)(leaf)
        grads.append((out, *torch.autograd.grad(out.square().sum(), leaf)))
    assert grads[0][1].abs().max() > 0
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


def test_the_projection_runs_once(monkeypatch):
    model, calls = sparse(), []
    own = SparseEncoder.coefficients
    monkeypatch.setattr(SparseEncoder, "coefficients", lambda self, x: calls.append(len(x)) or own(self, x))
    Expectation(model, 7)(X.double())
    assert calls == [4]


def test_random_stages_behind_draw_for_every_copy_and_of_no_batch():
    model = sparse(AdditiveNoise(0.1))
    together = keyed(lambda x: passes(model, x, 3))
    alone = keyed(lambda x: passes(model, x, 3), X[:1])
    torch.testing.assert_close(alone, together[::4])
    assert not torch.allclose(together[:4], together[4:8])


def test_a_context_for_copies_gives_each_its_own_noise():
    key, x = sampling.keys(torch.arange(3)), torch.zeros(3, 2)
    with sampling.keyed(key):
        single = sampling.layer_uniform(x)
    with sampling.keyed(key), sampling.repeated(3):
        drawn = sampling.layer_uniform(x.repeat(3, 1))
    assert torch.equal(drawn[:3], single)
    assert len(drawn.unique()) == 18
    with sampling.repeated(3):
        assert sampling.layer_uniform(x.repeat(3, 1)).shape == (9, 2)


def test_random_stages_in_front_are_drawn_anew_in_every_pass():
    model = Pipeline([AdditiveNoise(0.3), *sparse().stages]).double().eval()
    together = keyed(lambda x: passes(model, x, 3))
    torch.testing.assert_close(together, keyed(lambda x: passes(Counted(model), x, 3)))


@pytest.mark.parametrize("reduce", ["probs", "losses"])
def test_an_attack_finds_the_same_either_way(reduce):
    model = sparse()
    attack = EOT(attack=PGD(threat=ThreatModel(0.1), steps=3), draws=3, reduce=reduce)
    y, key = torch.tensor([1, 2, 3, 4]), sampling.keys(torch.arange(4))
    found = [attack(each.eval(), X.double(), y, key=key) for each in (model, Counted(model))]
    torch.testing.assert_close(*found)


def test_passes_of_an_expectation_and_of_an_ensemble_are_its_passes_one_by_one():
    for ensemble in (Expectation(sparse(), 3), Ensemble(sparse(), 3).eval(), Ensemble(sparse(), 3).train()):
        together = keyed(lambda x, ensemble=ensemble: passes(ensemble, x, 4))
        torch.testing.assert_close(together, keyed(lambda x, e=ensemble: torch.cat([e(x) for _ in range(4)])))
        assert together.shape == (16, 10)
