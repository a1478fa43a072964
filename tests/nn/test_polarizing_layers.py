"""Layers of the polarizing front end: closed forms, what a perturbation can move, backward passes, and bad input."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lit_robust.errors import UserError
from lit_robust.nn import Pipeline
from lit_robust.nn.bumps import bumps, mean_bump
from lit_robust.nn.dead_zone import DeadZone
from lit_robust.nn.l1_norm_conv import L1NormConv2d
from lit_robust.nn.level_quantizer import LevelQuantizer
from lit_robust.nn.polarizing import PolarizingFrontEnd, polarizing_front_end

numbers = st.floats(-1, 1, width=32)


def slope(function, z):
    z = z.clone().requires_grad_()
    (grad,) = torch.autograd.grad(function(z).sum(), z)
    return grad


def test_ternary_levels_and_ties():
    z = torch.tensor([-1.0, -0.51, -0.5, -0.49, 0.0, 0.49, 0.5, 0.51, 1.0])
    assert LevelQuantizer(0.5)(z).tolist() == [-1, -1, -0.5, 0, 0, 0, 0.5, 1, 1]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-99, 99), min_size=1, max_size=6, unique=True), st.lists(numbers, min_size=1, max_size=20))
def test_levels_count_thresholds_below_and_above(hundredths, values):
    thresholds = sorted(h / 100 for h in hundredths)
    quantizer, z = LevelQuantizer(thresholds), torch.tensor(values)
    exact = [float(t) for t in quantizer.thresholds]
    below = torch.tensor([sum(v > t for t in exact) - sum(v < t for t in exact) for v in z.tolist()])
    for backward in quantizer.offered:
        quantizer.backward_pass = backward
        assert torch.equal(quantizer(z), below / 2), backward


def test_the_quantiser_does_not_change_its_input():
    z = torch.linspace(-1, 1, 11)
    for backward in LevelQuantizer.offered:
        LevelQuantizer(0.3, backward=backward)(z)
    assert torch.equal(z, torch.linspace(-1, 1, 11))


@pytest.mark.parametrize("steepness", [4, 8, 0.5])
def test_backward_passes_of_the_quantiser(steepness):
    z = torch.linspace(-1, 1, 41, dtype=torch.float64)
    quantizer = LevelQuantizer([-0.5, 0.25])
    assert torch.equal(slope(quantizer, z), torch.ones_like(z)), "identity is the default"
    quantizer.backward_pass = "exact"
    assert torch.equal(slope(quantizer, z), torch.zeros_like(z)), "zero, and not missing"
    quantizer.backward_pass = f"smooth({steepness})"
    wanted = sum(0.5 * steepness / torch.cosh(steepness * (z - t)) ** 2 for t in (-0.5, 0.25))
    torch.testing.assert_close(slope(quantizer, z), wanted)


@pytest.mark.parametrize(
    ("thresholds", "said"),
    [
        (0, r"threshold c .* in \(0, 1\), got 0"),
        (1.0, r"in \(0, 1\), got 1.0"),
        (-0.3, r"in \(0, 1\), got -0.3"),
        (1.5, r"in \(0, 1\), got 1.5"),
        (float("nan"), r"in \(0, 1\), got nan"),
        ([], r"ascending order .* got \[\]"),
        ([0.5, -0.5], "ascending"),
        ([0.2, 0.2], "ascending"),
        ([-1.0, 0.5], r"within \(-1, 1\)"),
        ([0.0, float("nan")], "ascending"),
    ],
)
def test_thresholds_that_make_no_sense_are_refused(thresholds, said):
    with pytest.raises(UserError, match=said):
        LevelQuantizer(thresholds)
    with pytest.raises(UserError, match=said):
        PolarizingFrontEnd(thresholds=thresholds)


def test_an_unknown_backward_pass_is_refused():
    for name in ("smooth", "smooth(x)", "identity(2)", "composed"):
        with pytest.raises(UserError, match="backward pass"):
            LevelQuantizer(0.5, backward=name)


def test_a_checkpoint_does_not_override_the_threshold():
    network = PolarizingFrontEnd(thresholds=0.3)
    network.load_state_dict(PolarizingFrontEnd(thresholds=0.5).state_dict())
    assert network.quantizer.thresholds.tolist() == pytest.approx([-0.3, 0.3])


def test_filters_start_uniform_as_for_a_relu():
    weight = L1NormConv2d(filters=400).weight.detach()
    bound = math.sqrt(6 / 25)
    assert weight.abs().max() <= bound
    assert weight.abs().max() > 0.99 * bound
    assert weight.std() == pytest.approx(bound / math.sqrt(3), rel=0.03)
    assert L1NormConv2d(in_channels=3).weight.abs().max() <= math.sqrt(6 / 75)


@pytest.mark.parametrize("channels", [1, 3])
def test_responses_are_convolutions_over_l1_norms(channels):
    front = PolarizingFrontEnd(filters=4, kernel_size=3, in_channels=channels).double()
    x = torch.rand(2, channels, 7, 6, dtype=torch.float64)
    weight = front.conv.weight
    patches = nn.functional.unfold(x, 3, padding=1)
    wanted = weight.flatten(1) @ patches / weight.abs().sum((1, 2, 3))[:, None]
    torch.testing.assert_close(front.responses(x), wanted.view(2, 4, 7, 6))


def test_the_gradient_of_the_filters_goes_through_the_norm():
    conv = L1NormConv2d(filters=2, kernel_size=3).double()
    x, g = (torch.rand(2, n, 5, 5, dtype=torch.float64) for n in (1, 2))
    (grad,) = torch.autograd.grad((conv(x) * g).sum(), conv.weight)
    w = conv.weight.detach()
    norm = w.abs().sum((1, 2, 3), keepdim=True)
    plain = nn.functional.conv2d(x, w, padding=1)
    through = torch.nn.grad.conv2d_weight(x, w.shape, g, padding=1) / norm
    wanted = through - w.sign() * (plain * g).sum((0, 2, 3))[:, None, None, None] / norm**2
    torch.testing.assert_close(grad, wanted)
    assert (conv.weight * grad).sum((1, 2, 3)).abs().max() < 1e-9, "z does not depend on a filter's length"


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 0.6), st.floats(0.01, 100))
def test_a_perturbation_of_at_most_eps_moves_z_by_at_most_eps(seed, eps, scale):
    generator = torch.Generator().manual_seed(seed)
    front = PolarizingFrontEnd(filters=3, kernel_size=3, thresholds=0.4).double()
    with torch.no_grad():
        front.conv.weight.mul_(scale)
    x = torch.rand(2, 1, 5, 5, generator=generator, dtype=torch.float64)
    sign = torch.rand(x.shape, generator=generator, dtype=torch.float64).sub(0.5).sign()
    moved = (x + eps * sign).clamp(0, 1)
    z, z_moved = front.responses(x), front.responses(moved)
    assert (z_moved - z).abs().max() <= eps + 1e-12
    assert z.abs().max() <= 1 + 1e-12
    safe = (z.abs() - 0.4).abs() > eps
    assert torch.equal(front(x)[safe], front(moved)[safe]), "Proposition 1"


def test_the_bound_is_attained():
    front = PolarizingFrontEnd(filters=1, kernel_size=3).double()
    sign = front.conv.weight.sign()[0]
    x = torch.full((1, 1, 3, 3), 0.5, dtype=torch.float64)
    moved = front.responses(x + 0.2 * sign)[0, 0, 1, 1] - front.responses(x)[0, 0, 1, 1]
    assert moved.item() == pytest.approx(0.2)


def test_quantised_always_in_eval_mode_and_in_train_mode_unless_told():
    front, x = PolarizingFrontEnd(filters=3, thresholds=0.2), torch.rand(2, 1, 8, 8)
    z = front.responses(x)
    code = (z > 0.2).float() - (z < -0.2).float()
    assert torch.equal(front(x), code)
    front.quantize = False
    assert torch.equal(front(x), z)
    assert torch.equal(front.eval()(x), code)


def test_backward_passes_of_the_front_end():
    front = PolarizingFrontEnd(filters=4, kernel_size=3, in_channels=2, thresholds=0.2).double().eval()
    x, g = (torch.rand(2, n, 6, 6, dtype=torch.float64) for n in (2, 4))
    straight = slope(lambda v: front.responses(v) * g, x)
    torch.testing.assert_close(slope(lambda v: front(v) * g, x), straight)
    front.quantizer.backward_pass = "exact"
    assert torch.equal(slope(lambda v: front(v) * g, x), torch.zeros_like(x))
    code = front(x)
    front.backward_pass = "identity"
    assert torch.equal(front(x), code)
    in_place = g.sum(1, keepdim=True).expand_as(x)
    torch.testing.assert_close(slope(lambda v: front(v) * g, x), in_place)
    assert "identity" in front.opaque


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"filters": 0}, "filters and in_channels of at least 1, got 0 and 1"),
        ({"in_channels": 0}, "got 25 and 0"),
        ({"kernel_size": 4}, "odd kernel_size.*got 4"),
        ({"kernel_size": -1}, "odd kernel_size.*got -1"),
    ],
)
def test_filters_that_make_no_sense_are_refused(options, said):
    for kind in (PolarizingFrontEnd, L1NormConv2d):
        with pytest.raises(UserError, match=said):
            kind(**options)


def test_the_front_end_of_a_network_is_found():
    front = PolarizingFrontEnd()
    assert polarizing_front_end(Pipeline([front, nn.Flatten()])) == ("stages.0", front)
    for network, count in ((nn.Linear(1, 1), 0), (Pipeline([front, PolarizingFrontEnd()]), 2)):
        with pytest.raises(UserError, match=f"one PolarizingFrontEnd, got {count}"):
            polarizing_front_end(network)


def test_the_dead_zone():
    z = torch.tensor([-0.5, -0.2, -0.1, 0.0, 0.2, 0.21])
    layer = DeadZone(0.2)
    assert torch.equal(layer(z), torch.tensor([-0.5, 0, 0, 0, 0, 0.21]))
    assert slope(layer, z).tolist() == [1, 0, 0, 0, 0, 1]
    layer.backward_pass = "identity"
    assert torch.equal(layer(z), torch.tensor([-0.5, 0, 0, 0, 0, 0.21]))
    assert slope(layer, z).tolist() == [1] * 6
    assert DeadZone("8/255").eps == pytest.approx(8 / 255)
    with pytest.raises(UserError, match=r"0 or more, got -0.1"):
        DeadZone(-0.1)


@settings(max_examples=40, deadline=None)
@given(st.lists(numbers, min_size=1, max_size=4), st.floats(0.05, 1), st.lists(numbers, min_size=1, max_size=12))
def test_bumps_and_their_gradient_are_the_formula(centres, width, values):
    z = torch.tensor(values, dtype=torch.float64)
    each = [torch.exp(-((z - c) ** 2) / (2 * width**2)) for c in centres]
    torch.testing.assert_close(bumps(z, centres, width), sum(each))
    torch.testing.assert_close(mean_bump(z, centres, width), sum(each).mean())
    wanted = sum(-(z - c) / width**2 * b for c, b in zip(centres, each, strict=True)) / len(values)
    torch.testing.assert_close(slope(lambda v: mean_bump(v, centres, width), z), wanted)
    torch.testing.assert_close(slope(lambda v: 3 * bumps(v, centres, width).mean(), z), 3 * wanted)


def test_centres_of_bumps_may_be_a_tensor():
    z, thresholds = torch.linspace(-1, 1, 9), LevelQuantizer(0.3).thresholds
    assert torch.equal(mean_bump(z, thresholds, 0.15), mean_bump(z, thresholds.tolist(), 0.15))
    with pytest.raises(UserError, match="width of a bump to be above 0, got 0"):
        mean_bump(z, [0.0], 0)
