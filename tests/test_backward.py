"""Backward passes of one's choice: gradients against closed forms, forward passes and layers as they were."""

from contextlib import suppress

import pytest
import torch
from torch import nn

from lit_robust import sampling
from lit_robust.attacks.combinations import combinations, labels
from lit_robust.backward import SurrogateLayer, chosen, covers, default, imported, matching, replace_gradient
from lit_robust.errors import UserError


class Quantizer(SurrogateLayer):
    """Rounds; its backward pass is exact (zero), the identity, or the slope of a hyperbolic tangent."""

    offered = ("exact", "identity", "smooth(4)")

    def forward(self, x):
        if self.kind == "exact":
            return x.round()
        soft = x if self.kind == "identity" else torch.tanh(self.number * (x - 0.5))
        return replace_gradient(x.round(), soft)


class Front(SurrogateLayer):
    """A quantiser behind a scale, differentiated as it is or as the identity."""

    offered = ("composed", "identity")
    opaque = frozenset({"identity"})

    def __init__(self):
        super().__init__()
        self.quantizer = Quantizer()

    def forward(self, x):
        out = self.quantizer(0.5 * x)
        return out if self.kind == "composed" else replace_gradient(out, x)


class Round(nn.Module):
    """A stranger's layer."""

    def forward(self, x):
        return x.round()


class Wraps(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)


class Stranger(nn.Module):
    """Two rounding layers and a linear one."""

    def __init__(self):
        super().__init__()
        self.first = Round()
        self.block = nn.Sequential(nn.Linear(3, 3, bias=False), Round())

    def forward(self, x):
        return self.block(self.first(x))


def points(n=5):
    return torch.rand(n, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def gradient(model, x):
    """Of the sum of the outputs; with the outputs."""
    x = x.clone().requires_grad_()
    out = model(x)
    return torch.autograd.grad(out.sum(), x)[0] if out.requires_grad else torch.zeros_like(x), out.detach()


# --- names ---


def test_a_pattern_names_the_same_layers_in_a_network_and_in_what_wraps_it():
    network = nn.Sequential(Stranger(), nn.Sequential(Stranger(), Round()))
    for pattern in ("0", "1.0", "1", "0.block.1", "*.first", "*first", "[01].1", "block.1", "first", "1.*"):
        own = matching(network, pattern)
        assert own
        for prefix, wrapped in (("model.", Wraps(network)), ("model.model.", Wraps(Wraps(network)))):
            assert matching(wrapped, pattern) == {prefix + name: layer for name, layer in own.items()}
    assert list(matching(network, "first")) == ["0.first"]  # not the one that lies deeper
    assert list(matching(network, "*first")) == ["0.first", "1.0.first"]
    assert list(matching(network, "1")) == ["1"]


def test_a_pattern_that_names_nothing_says_what_there_is():
    with pytest.raises(UserError, match=r"no layer matches 'last'; Stranger has first, block, block\.0, block\.1"):
        matching(Stranger(), "last")
    with pytest.raises(UserError, match="no layer matches 'first'; Round has no layers"):
        matching(Round(), "first")


# --- choosing ---


def test_the_identity_of_any_layer_is_the_gradient_of_the_rest():
    model, x = Stranger().double(), points()
    weight = model.block[0].weight
    exact, out = gradient(model, x)
    assert (exact == 0).all()
    with chosen(model, {"first": "identity", "block.1": "identity"}):
        through, same = gradient(model, x)
    torch.testing.assert_close(through, weight.sum(0).expand_as(x), rtol=0, atol=1e-15)
    assert torch.equal(out, same)
    with chosen(model, {"first": "identity", "block.1": "exact"}):
        assert (gradient(model, x)[0] == 0).all()
    assert (gradient(model, x)[0] == 0).all()


@pytest.mark.parametrize("width", [0.1, 0.5, 0.75])
def test_smooth_is_the_gradient_of_the_layer_averaged_over_a_box(width):
    # The mean of round over a box, from its integral n t - n²/2 with n = round(t), differentiated by differences.
    x = torch.linspace(-1.2, 1.7, 38, dtype=torch.float64)[:, None]  # no end of a box lies at a jump

    def integral(t):
        return t.round() * t - t.round() ** 2 / 2

    def averaged(t):
        return (integral(t + width) - integral(t - width)) / (2 * width)

    expected = (averaged(x + 1e-4) - averaged(x - 1e-4)) / 2e-4
    with chosen(model := Wraps(Round()), {"model": f"smooth({width})"}):
        found, out = gradient(model, x)
    assert torch.equal(out, x.round())
    assert len(found.unique()) > 1 or width == 0.5
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def soft_round(x):
    return x + torch.sin(2 * torch.pi * x)


@pytest.mark.parametrize("way", [soft_round, f"{__name__}.soft_round"], ids=["function", "path"])
def test_any_function_is_a_backward_pass(way):
    x = points()
    model = Wraps(Round())
    with chosen(model, {"model": way}):
        found, out = gradient(model, x)
    torch.testing.assert_close(found, 1 + 2 * torch.pi * torch.cos(2 * torch.pi * x), rtol=0, atol=1e-12)
    assert torch.equal(out, x.round())
    with chosen(model := Wraps(Quantizer(backward="exact")), {"model": way}):  # also of a layer that offers its own
        torch.testing.assert_close(gradient(model, x)[0], found, rtol=0, atol=0)


def test_a_layer_that_names_its_backward_passes_takes_them_by_name_and_has_its_own_again():
    model, x = Wraps(Front()), points()
    quantizer = model.model.quantizer
    quantizer.backward_pass = "smooth(7)"
    slopes = {"identity": 0.5 * torch.ones_like(x), "exact": torch.zeros_like(x)}
    for name, slope in slopes.items():
        with chosen(model, {"quantizer": name}):
            assert quantizer.backward_pass == name
            torch.testing.assert_close(gradient(model, x)[0], slope)
        assert (quantizer.backward_pass, quantizer.kind, quantizer.number) == ("smooth(7)", "smooth", 7)
    with chosen(model, {"quantizer": "smooth(2)", "model": "identity"}):
        assert (gradient(model, x)[0] == 1).all()
    assert model.model.backward_pass == "composed"


def test_the_last_pattern_that_names_a_layer_counts():
    model = Stranger().double()
    with chosen(model, {"*": "exact", "first": "identity", "block.1": "identity"}):
        assert (gradient(model, points())[0] != 0).any()
    with chosen(model, {"first": "identity", "block.1": "identity", "*": "exact"}):
        assert (gradient(model, points())[0] == 0).all()


def hooks(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.mark.parametrize(
    "broken", [{"block.1": "nonsense"}, {"quantizer.quantizer": "smooth"}, {"nowhere": "identity"}], ids=str
)
def test_an_error_leaves_everything_as_it_was(broken):
    model = nn.ModuleDict({"block": nn.Sequential(Round(), Round()), "quantizer": Front()})
    first = {"block.0": "identity", "quantizer": "identity"}
    with pytest.raises(UserError), chosen(model, {**first, **broken}):
        pass
    assert (hooks(model), model["quantizer"].backward_pass) == (0, "composed")
    with suppress(ZeroDivisionError), chosen(model, first):
        assert (hooks(model), model["quantizer"].backward_pass) == (2, "identity")
        _ = 1 / 0
    assert (hooks(model), model["quantizer"].backward_pass) == (0, "composed")


@pytest.mark.parametrize(
    ("layer", "way", "message"),
    [
        (Round(), "nonsense", r"model: Round takes exact, identity, smooth\(h\) with h above 0, or .* got 'nonsense'"),
        (Round(), "smooth", "model: Round takes exact"),
        (Round(), "smooth(0)", "model: Round takes exact"),
        (Round(), "smooth(nan)", "model: Round takes exact"),
        (Round(), "smooth(wide)", "model: expected a backward pass such as identity or"),
        (Round(), "exact(1)", "model: Round takes exact"),
        (Round(), "no_such_package.soft", "expected a backward pass or the import path .*no_such_package"),
        (Round(), "torch.no_such_function", "torch.no_such_function"),
        (Round(), "torch.pi", "expected the import path of a function, got 'torch.pi', which is a float"),
        (Quantizer(), "composed", r"model: Quantizer has no backward pass 'composed'; it has exact, identity, smooth"),
    ],
)
def test_a_backward_pass_that_a_layer_does_not_have_is_refused(layer, way, message):
    with pytest.raises(UserError, match=message), chosen(Wraps(layer), {"model": way}):
        pass


class Half(nn.Module):
    def forward(self, x):
        return x[:, :1]


class Whole(nn.Module):
    def forward(self, x):
        return x.round().long()


class Pair(nn.Module):
    def forward(self, x):
        return x, x


@pytest.mark.parametrize("layer", [Half(), Whole(), Pair()], ids=lambda layer: type(layer).__name__)
@pytest.mark.parametrize("way", ["identity", torch.sin], ids=["identity", "function"])
def test_outputs_that_a_backward_pass_does_not_fit_are_refused(layer, way):
    model = Wraps(layer)
    with (
        chosen(model, {"model": way}),
        pytest.raises(UserError, match=r"model: this backward pass needs float outputs of shape \(5, 3\)"),
    ):
        gradient(model, points())


def test_smooth_is_refused_for_a_layer_of_two_shapes():
    model = Wraps(Half())
    with chosen(model, {"model": "smooth(1)"}), pytest.raises(UserError, match=r"one shape, got \(5, 3\) to \(5, 1\)"):
        gradient(model, points())


def test_without_a_gradient_to_compute_the_layer_runs_once():
    calls = []
    model = Wraps(Round())
    model.model.register_forward_pre_hook(lambda *_: calls.append(1))
    run, model.model.forward = model.model.forward, lambda x: calls.append(2) or run(x)
    with chosen(model, {"model": "smooth(0.5)"}):
        model(points())
        with torch.no_grad():
            model(points().requires_grad_())
        assert calls == [1, 2, 1, 2]
        gradient(model, points())
        assert calls == [1, 2, 1, 2, 1, 2, 2, 2]


def test_a_layer_that_works_in_place_gets_a_copy():
    class InPlace(nn.Module):
        def forward(self, x):
            return x.round_()

    x = points()
    model = nn.Sequential(nn.Identity(), InPlace())
    with chosen(model, {"1": torch.square}):
        found, out = gradient(lambda x: model(2 * x), x)
    torch.testing.assert_close(found, 8 * x)  # of (2x)²
    assert torch.equal(out, (2 * x).round())


def test_a_random_layer_that_is_smoothed_draws_what_it_would_have_drawn():
    class Jitter(nn.Module):
        def forward(self, x):
            return x + sampling.layer_uniform(x)

    model, x = nn.Sequential(Jitter(), Jitter()), points()
    key = sampling.keys(torch.arange(len(x)))
    with sampling.keyed(key):
        expected = model(x)
    with chosen(model, {"0": "smooth(0.5)"}), sampling.keyed(key):
        found, out = gradient(model, x)
    assert torch.equal(out, expected)
    torch.testing.assert_close(found, torch.ones_like(x))


def test_a_layer_that_is_used_twice_has_the_backward_pass_both_times():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.round = Round()

        def forward(self, x):
            return self.round(3 * self.round(2 * x))

    with chosen(model := Twice(), {"round": "identity"}):
        assert (gradient(model, points())[0] == 6).all()


# --- combinations ---


def test_a_network_without_choices_has_one_combination():
    assert combinations(Stranger()) == [{}]
    assert labels(Stranger(), [{}]) == ["default"]


def test_choices_inside_a_layer_that_hides_them_are_not_varied():
    model = nn.Sequential(Front(), nn.Linear(3, 2))
    found = combinations(model)
    assert found == [
        {"0": "composed", "0.quantizer": "exact"},
        {"0": "composed", "0.quantizer": "identity"},
        {"0": "composed", "0.quantizer": "smooth(4)"},
        {"0": "identity"},
    ]
    assert labels(model, found) == ["default", "quantizer=identity", "quantizer=smooth(4)", "0=identity"]
    assert combinations(Wraps(model))[3] == {"model.0": "identity"}


def test_every_combination_of_several_layers_comes_once():
    model = nn.Sequential(Front(), Quantizer(), Round())
    found = combinations(model, {"2": ["identity", "smooth(0.5)", "identity"]})
    assert len(found) == len({tuple(each.items()) for each in found}) == (3 + 1) * 3 * 2
    assert found[0] == {"0": "composed", "0.quantizer": "exact", "1": "exact", "2": "identity"}
    assert len(set(labels(model, found))) == len(found)
    assert labels(model, found)[:2] == ["2=identity", "2=smooth(0.5)"]  # not what the layer does by itself
    for each in found:
        with chosen(model, each):
            gradient(model, points())


def test_patterns_tie_layers_and_replace_what_they_offer():
    model = nn.Sequential(Front(), Front())
    assert len(combinations(model)) == 16
    tied = combinations(model, {"*.quantizer": ["identity", "smooth(2)", "smooth(8)"]})
    assert tied[:2] == [{"0": "composed", "1": "composed", "*.quantizer": way} for way in ("identity", "smooth(2)")]
    assert len(tied) == 3 * 3 + 1  # hidden only where both front ends hide theirs
    assert tied[-1] == {"0": "identity", "1": "identity"}
    assert labels(model, tied)[:2] == ["quantizer=identity", "quantizer=smooth(2)"]


def test_a_backward_pass_from_outside_hides_what_is_inside():
    model = nn.Sequential(nn.Sequential(Quantizer()))
    assert combinations(model, {"0": ["exact", "identity"]}) == [
        {"0.0": "exact", "0": "exact"},
        {"0": "identity"},
        {"0.0": "identity", "0": "exact"},
        {"0.0": "smooth(4)", "0": "exact"},
    ]
    assert covers(Front(), "identity")
    assert covers(Front(), f"{__name__}.soft_round")
    assert not covers(Front(), "composed")
    assert (default(Front()), default(Round())) == ("composed", "exact")


def test_labels_are_the_shortest_that_tell_layers_apart():
    model = nn.ModuleDict({name: nn.ModuleList([Front()]) for name in ("a", "b")})
    found = combinations(model, {"a.0": ["identity"], "b.0": ["identity"]})
    assert labels(model, found) == ["a.0=identity b.0=identity"]
    found = combinations(model, {"a.0.quantizer": ["identity"], "b.0.quantizer": ["exact"]})
    assert labels(model, found)[0] == "a.0.quantizer=identity"


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"0": []}, "expected a list of one backward pass or more for '0'"),
        ({"0": "identity"}, "expected a list of one backward pass or more for '0', got 'identity'"),
        ({"9": ["identity"]}, "no layer matches '9'"),
        ({"1": ["identity", "sharp"]}, "1: Round takes exact"),
        ({"0": ["sharp"]}, "0: Quantizer has no backward pass 'sharp'"),
        ({"0": ["exact"], "[0]": ["identity"]}, r"the patterns '0' and '\[0\]' both name 0"),
        ({"1": [f"smooth({i + 1})" for i in range(400)]}, r"at most 1000 combinations .* got 1200, of 2 layers"),
    ],
)
def test_choices_that_cannot_be_are_refused(extra, message):
    with pytest.raises(UserError, match=message):
        combinations(nn.Sequential(Quantizer(), Round()), extra)


def test_import_paths_are_told_from_names():
    assert imported("identity") is None
    assert imported("smooth(0.5)") is None
    assert imported("torch.sin") is torch.sin
