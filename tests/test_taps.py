"""Taps: what layers saw, and gradients that stay in a layer."""

import pytest
import torch
from torch import nn

from lit_robust import sampling
from lit_robust.errors import UserError
from lit_robust.taps import Taps, convolutions, layer_names, trial


class Model(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.features = features
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Conv2d(2, 3, 3)))


X = torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(1))


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_a_tap_keeps_input_and_output(model):
    with Taps(model, ["features.2", "head"]) as taps:
        logits = model(X)
    first = model.features[1](model.features[0](X))
    assert torch.equal(taps["features.2"].input, first)
    assert torch.equal(taps["features.2"].output, model.features[2](first))
    assert taps["head"].output is logits
    assert taps["head"].layer is model.head


def test_the_last_pass_counts(model):
    with Taps(model, ["head"]) as taps:
        model(X)
        second = model(0.5 * X)
    assert taps["head"].output is second


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["features.*"], ["features.0", "features.1", "features.2"]),
        (["head", "features.0"], ["features.0", "head"]),  # in the order of the model
        (["features.[02]"], ["features.0", "features.2"]),
        (["feature?"], ["features"]),
        (["*.0", "features.0"], ["features.0"]),  # each once
    ],
)
def test_patterns(model, patterns, expected):
    assert layer_names(model, patterns) == expected
    assert Taps(model, patterns).names == expected


@pytest.mark.parametrize("pattern", ["Features.0", "feature", "conv*", ""])
def test_an_unknown_pattern_lists_the_layers(model, pattern):
    listed = r"Model has features, features\.0, features\.1, features\.2, head"
    with pytest.raises(UserError, match=listed):
        Taps(model, ["head", pattern])
    assert hooks(model) == 0


def test_no_hook_stays_behind_also_after_an_error(model):
    with Taps(model, ["*"]) as taps:
        assert hooks(model) == 5
        model(X)
    assert hooks(model) == 0

    def fail():
        with Taps(model, ["*"]):
            model(torch.rand(2, 5, 6, 6))

    with pytest.raises(RuntimeError):
        fail()
    assert hooks(model) == 0
    kept = taps["head"].output
    model(0.5 * X)
    assert taps["head"].output is kept


def test_what_was_not_tapped_or_has_not_run_is_named(model):
    with Taps(model, ["head"]) as taps:
        with pytest.raises(KeyError, match="taps that ran: none"):
            taps["head"]
        model(X)
        with pytest.raises(KeyError, match=r"'features.0' was not tapped or has not run; taps that ran: head"):
            taps["features.0"]


def gradients(model, loss):
    model.zero_grad()
    loss.backward(retain_graph=True)
    return {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}


def test_local_gradients_stay_in_their_layer(model):
    x = X.clone().requires_grad_()
    with Taps(model, ["features.2"]) as taps:
        model(x)
    tap = taps["features.2"]
    local = tap.local()
    assert torch.equal(local, tap.output)
    own = {"features.2.weight", "features.2.bias"}
    assert gradients(model, local.square().sum()) == own
    assert x.grad is None
    mine = model.features[2].weight.grad.clone()
    assert gradients(model, tap.output.square().sum()) == own | {"features.0.weight", "features.0.bias"}
    torch.testing.assert_close(mine, model.features[2].weight.grad)


class Weighted(nn.Conv2d):
    """A subclass of the convolution."""


class Crossed(nn.Module):
    """Runs its layers in another order than it names them; draws noise; one layer never runs and one runs twice."""

    def __init__(self):
        super().__init__()
        self.idle = nn.Conv2d(1, 1, 1)
        self.second = Weighted(2, 2, 1)
        self.norm = nn.BatchNorm2d(2)
        self.first = nn.Conv2d(1, 2, 3)

    def forward(self, x):
        x = self.second(self.norm(self.first(x + sampling.layer_normal(x))))
        return self.second(x).mean((2, 3))


def test_convolutions_are_named_with_their_subclasses():
    assert convolutions(Crossed()) == ["idle", "second", "first"]
    with pytest.raises(UserError, match="Linear has no 2-D convolution; name the layers that are meant"):
        convolutions(nn.Linear(1, 1))


def test_a_trial_gives_layers_in_the_order_in_which_they_run():
    model = Crossed().train()
    seen = trial(model, ["*"], (1, 5, 4))
    assert list(seen) == ["first", "norm", "second"]
    assert seen["first"].input.shape == (1, 1, 5, 4)
    assert seen["first"].output.shape == (1, 2, 3, 2)
    assert torch.equal(seen["norm"].input, seen["first"].output)
    assert not seen["first"].output.requires_grad


def test_a_trial_changes_nothing():
    model = Crossed().train()
    before, generator = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    trial(model, ["first"], (1, 5, 5))
    assert model.training
    assert hooks(model) == 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
