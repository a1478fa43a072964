"""The Hebbian cost against sorting by hand, and the convolution that learns by it against autograd."""

import copy
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lit_robust.errors import UserError
from lit_robust.nn import HaHBlock, HaHVGG16, HebbianCost, WeightL1, WeightNormConv2d
from lit_robust.nn.hah_block import HebbianLearner, hah_blocks
from lit_robust.nn.hebbian_conv import hebbian_convolution
from lit_robust.nn.hebbian_cost import Hebbian
from lit_robust.taps import Taps

torch.set_num_threads(1)
COST = Hebbian(alpha=0.7, lam=0.4, fraction=0.3)


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def costs(y, alpha, lam, k):
    """−α · L (Eqs. 5.4 and 5.5), location by location."""
    total = 0.0
    n, channels, height, width = y.shape
    for sample, i, j in product(range(n), range(height), range(width)):
        ranked = sorted(y[sample, :, i, j].tolist(), reverse=True)
        total += sum(ranked[:k]) / k - lam * sum(ranked[k:]) / (channels - k)
    return -alpha * total / (n * height * width)


def sorted_cost(y, hebbian, k):
    """The same, to be differentiated."""
    ranked = y.sort(dim=1, descending=True).values
    return -hebbian.alpha * (ranked[:, :k].mean() - hebbian.lam * ranked[:, k:].mean())


# --- the cost ---


@pytest.mark.parametrize(
    ("fraction", "channels", "k"),
    [
        (0.1, 64, 7),
        (0.1, 128, 13),
        (0.1, 256, 26),
        (0.1, 10, 1),
        (0.07, 100, 7),
        (0.55, 100, 55),
        (0.1, 2, 1),
        (0.8, 9, 8),
    ],
)
def test_k_is_the_fraction_rounded_up(fraction, channels, k):
    assert Hebbian(alpha=1.0, fraction=fraction).strong(channels) == k


@pytest.mark.parametrize(("fraction", "channels"), [(0.9, 9), (0.1, 1)])
def test_no_channel_would_be_weak(fraction, channels):
    message = rf"{fraction} of {channels} channels, rounded up, is K = {channels}; .* from 1 to {channels - 1}"
    with pytest.raises(UserError, match=message):
        Hebbian(alpha=1.0, fraction=fraction).strong(channels)


def test_the_cost_by_hand():
    y = torch.tensor([4.0, 1.0, 0.0, 7.0, 2.0]).view(1, 5, 1, 1)
    # K = 2: (7 + 4) / 2 − 0.5 · (2 + 1 + 0) / 3
    assert Hebbian(alpha=0.1, lam=0.5, fraction=0.4).cost(y).item() == pytest.approx(-0.1 * (5.5 - 0.5))


@pytest.mark.parametrize(("fraction", "k"), [(0.1, 1), (0.3, 3), (0.85, 6)])
@pytest.mark.parametrize(("alpha", "lam"), [(1.0, 1.0), (4.5e-3, 0.1), (0.0, 1.0), (2.0, 0.0)])
def test_the_cost_is_the_formula(alpha, lam, fraction, k):
    y = numbers(2, 7, 3, 4).clamp(min=0)
    hebbian = Hebbian(alpha=alpha, lam=lam, fraction=fraction)
    assert hebbian.cost(y).item() == pytest.approx(costs(y, alpha, lam, k), abs=1e-14)
    assert hebbian.cost(y.contiguous(memory_format=torch.channels_last)).item() == pytest.approx(
        hebbian.cost(y).item(), abs=1e-14
    )


def test_the_gradient_that_is_added():
    y = (numbers(2, 10, 3, 4).abs() + 0.01).requires_grad_()
    value, strongest = COST.cost_and_strongest(y)
    assert torch.equal(strongest.sort(1).values, y.topk(3, 1).indices.sort(1).values)
    (of_cost,) = torch.autograd.grad(sorted_cost(y, COST, 3), y)
    other = numbers(2, 10, 3, 4, seed=1)
    before = other.clone()
    for scale in (1.0, 8.0, 0.0):
        found = COST.add_gradient(other, strongest, torch.tensor(scale, dtype=torch.float64))
        torch.testing.assert_close(found, before + scale * of_cost, rtol=1e-12, atol=1e-14)
    assert torch.equal(other, before)
    (of_value,) = torch.autograd.grad(value, y)
    torch.testing.assert_close(of_value, of_cost)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_cost_of_many_activations_in_16_bits(dtype):
    y = torch.rand(32, 16, 32, 32, generator=torch.Generator().manual_seed(0)).to(dtype)  # the sum is above 65504
    value = Hebbian(alpha=1.0, lam=0.5).cost(y).item()
    assert value == pytest.approx(Hebbian(alpha=1.0, lam=0.5).cost(y.float()).item(), rel=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": -1e-3}, "alpha .* 0 or more, got -0.001"),
        ({"alpha": 1.0, "lam": -0.1}, "lambda .* 0 or more, got -0.1"),
        ({"alpha": 1.0, "fraction": 0.0}, "between 0 and 1, got 0"),
        ({"alpha": 1.0, "fraction": 1.0}, "between 0 and 1, got 1"),
        ({"alpha": float("nan")}, "alpha .* got nan"),
        ({"alpha": 1.0, "lam": float("nan")}, "lambda .* got nan"),
        ({"alpha": 1.0, "fraction": float("nan")}, "between 0 and 1, got nan"),
    ],
)
def test_costs_out_of_range_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Hebbian(**options)


# --- the convolution ---

GEOMETRIES = {
    "published": {"padding": 1},
    "with bias": {"padding": 1, "bias": True},
    "stride": {"stride": 2, "padding": 1},
    "strides": {"stride": (1, 2), "padding": (0, 2), "bias": True},
    "dilation": {"dilation": 2, "padding": 2},
    "groups": {"groups": 2, "padding": 1, "bias": True},
    "one by one": {"kernel_size": 1},
    "oblong": {"kernel_size": (3, 1), "padding": (1, 0)},
    "reflect": {"padding": 1, "padding_mode": "reflect"},
    "circular": {"padding": 2, "padding_mode": "circular", "bias": True},
    "replicate": {"padding": (1, 2), "padding_mode": "replicate", "stride": 2},
    "same": {"padding": "same", "bias": True},
    "same, even": {"padding": "same", "kernel_size": 2},
    "valid": {"padding": "valid"},
}


def layer(name):
    torch.manual_seed(0)
    return WeightNormConv2d(4, 10, **GEOMETRIES[name]).double()


def naive(x, conv, hebbian):
    """Activations, and a cost from activations computed again from the detached input."""
    return F.relu(conv(x)), sorted_cost(F.relu(conv(x.detach())), hebbian, hebbian.strong(conv.out_channels))


def gradients(function, conv, x, weigh):
    """Outputs, and gradients in the input and the parameters of what `weigh` makes of the outputs."""
    conv, x = copy.deepcopy(conv), x.detach().requires_grad_()
    y, cost = function(x, conv, COST)
    weigh(y, cost).backward()
    found = {name: p.grad for name, p in conv.named_parameters()}
    return {"y": y.detach(), "cost": cost.detach(), "x": x.grad, **found}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(
            found[name], expected[name], rtol=1e-10, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_all_gradients_are_those_of_a_cost_on_the_detached_input(geometry):
    conv, x = layer(geometry), numbers(2, 4, 7, 6)
    g = numbers(*conv(x).shape, seed=1)

    def weigh(y, cost):
        return (y * g).sum() + 3 * cost

    found = gradients(hebbian_convolution, conv, x, weigh)
    assert_same(found, gradients(naive, conv, x, weigh))
    # What the cost adds is not nothing, and the input gets none of it.
    without = gradients(hebbian_convolution, conv, x, lambda y, cost: (y * g).sum())
    assert torch.equal(found["x"], without["x"])
    assert (found["weight"] - without["weight"]).abs().max() > 1e-3


@pytest.mark.parametrize("geometry", ["published", "groups", "circular"])
def test_any_layout_of_the_input_and_of_what_comes_back(geometry):
    conv, x = layer(geometry), numbers(2, 4, 7, 6)
    g = numbers(*conv(x).shape, seed=1)
    expected = gradients(naive, conv, x, lambda y, cost: (y * g).sum() + cost)
    inputs = (x.contiguous(memory_format=torch.channels_last), x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0))
    returned = (g, g.contiguous(memory_format=torch.channels_last), torch.stack([g, g], -1)[..., 0])
    for laid, back in product(inputs, returned):
        assert_same(gradients(hebbian_convolution, conv, laid, lambda y, cost, b=back: (y * b).sum() + cost), expected)
    # A gradient that is one number in many places
    expected = gradients(naive, conv, x, lambda y, cost: y.sum() + cost)
    assert_same(gradients(hebbian_convolution, conv, x, lambda y, cost: y.sum() + cost), expected)


def test_the_cost_alone_and_the_activations_alone():
    conv, x = layer("with bias"), numbers(2, 4, 7, 6)
    alone = gradients(hebbian_convolution, conv, x, lambda y, cost: cost)
    assert not alone["x"].any()
    expected = gradients(naive, conv, x, lambda y, cost: cost + 0 * y.sum())
    assert_same(alone, expected)
    found = gradients(hebbian_convolution, conv, x, lambda y, cost: y.square().sum())
    assert_same(found, gradients(naive, conv, x, lambda y, cost: y.square().sum() + 0 * cost))


def test_an_input_without_gradient():
    conv, x = layer("with bias"), numbers(2, 4, 7, 6)
    y, cost = hebbian_convolution(x, conv, COST)
    (y.square().sum() + cost).backward()
    found = {name: p.grad.clone() for name, p in conv.named_parameters()}
    conv.zero_grad()
    y, cost = naive(x, conv, COST)
    (y.square().sum() + cost).backward()
    assert_same(found, {name: p.grad for name, p in conv.named_parameters()})


def test_gradient_of_the_filters_against_finite_differences():
    # In the filters both outputs have ordinary gradients; in the input only the activations have.
    conv, x = layer("with bias"), numbers(1, 4, 4, 3)

    def of_parameters(weight, bias):
        conv_ = copy.deepcopy(conv)
        del conv_.weight, conv_.bias
        conv_.weight, conv_.bias = weight, bias
        return hebbian_convolution(x, conv_, COST)

    inputs = (conv.weight.detach().clone().requires_grad_(), conv.bias.detach().clone().requires_grad_())
    assert torch.autograd.gradcheck(of_parameters, inputs, eps=1e-7, atol=1e-5)
    assert torch.autograd.gradcheck(
        lambda x: hebbian_convolution(x, conv, COST)[0], (x.clone().requires_grad_(),), eps=1e-7, atol=1e-5
    )


def test_the_activations_are_those_without_a_cost():
    conv, x = layer("published").float(), numbers(2, 4, 7, 6).float()
    assert torch.equal(hebbian_convolution(x, conv, COST)[0], F.relu(conv(x)))


def test_under_autocast_the_small_gradient_of_the_cost_is_not_lost():
    torch.manual_seed(0)
    conv, x = WeightNormConv2d(4, 10, padding=1), numbers(16, 4, 16, 16).float()
    g, hebbian = numbers(16, 10, 16, 16, seed=1).float(), Hebbian(alpha=10.0, fraction=0.3)

    def of_filters(enabled):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y, cost = hebbian_convolution(x, conv, hebbian)
        assert y.dtype == (torch.bfloat16 if enabled else torch.float32)
        alone, both = (torch.autograd.grad(t, conv.weight, retain_graph=True)[0] for t in (cost, (y * g).sum() + cost))
        (without,) = torch.autograd.grad((y * g).sum(), conv.weight)
        return alone, both - without

    exact, _ = of_filters(False)
    alone, added = of_filters(True)
    assert F.cosine_similarity(exact.flatten(), alone.flatten(), dim=0) > 0.99
    assert F.cosine_similarity(exact.flatten(), added.flatten(), dim=0) > 0.99


# --- the block that learns ---


def learning(propagate=False):
    torch.manual_seed(0)
    block = HaHBlock(WeightNormConv2d(4, 10, padding=1)).double()
    block.learner = HebbianLearner(COST, propagate=propagate)
    return block


@pytest.mark.parametrize("propagate", [True, False])
def test_a_block_that_learns_gives_the_same_maps(propagate):
    block, x = learning(propagate), numbers(2, 4, 7, 6)
    out = block(x)
    assert block.learner.cost is not None
    block.learner = None
    assert torch.equal(out, block(x))


@pytest.mark.parametrize("propagate", [True, False])
def test_only_the_first_pass_that_trains_has_a_cost(propagate):
    block, x = learning(propagate), numbers(2, 4, 7, 6)
    with torch.no_grad():
        block(x)
    block.requires_grad_(False)(x.requires_grad_())
    assert block.learner.cost is None
    block.requires_grad_(True)(x)
    cost = block.learner.cost
    block(0.5 * x)
    assert block.learner.cost is cost
    k = COST.strong(10)
    torch.testing.assert_close(cost, sorted_cost(F.relu(block.conv(x)), COST, k))
    (of_x,) = torch.autograd.grad(cost, x)
    assert bool(of_x.any()) is propagate


def test_the_costs_of_a_network_have_the_values_of_the_formula():
    torch.manual_seed(0)
    network, x = HaHVGG16(width=1 / 8, hah_blocks=4).double(), numbers(2, 3, 32, 32).abs()
    with Taps(network, [f"block{n}" for n in range(1, 5)]) as taps, HebbianCost(lam=0.3).collecting(network) as terms:
        network(x)
        found = terms()
    assert list(found) == [f"hah/block{n}" for n in range(1, 5)]
    for (name, block), alpha in zip(hah_blocks(network), (4.5e-3, 2.5e-3, 1.3e-3, 1e-3), strict=True):
        y = F.relu(block.conv(taps[name].input))
        k = -(-block.conv.out_channels // 10)
        torch.testing.assert_close(found[f"hah/{name}"], sorted_cost(y, Hebbian(alpha=alpha, lam=0.3), k))
    assert taps["block1"].input is x


def test_costs_that_do_not_fit_are_refused_by_name():
    network = HaHVGG16(width=1 / 8, hah_blocks=4)
    with pytest.raises(UserError, match=r"for each of 4 HaH blocks, got 2: none for block3, block4$"):
        HebbianCost(alphas=[1e-3, 1e-3]).check(network)
    HebbianCost(alphas=[1e-3] * 4).check(network)
    HebbianCost(alphas=[1e-3] * 9).check(network)
    with pytest.raises(UserError, match=r"^block1: 0\.9 of 8 channels, rounded up, is K = 8; .* from 1 to 7"):
        HebbianCost(fraction=0.9).check(network)
    with pytest.raises(UserError, match="HaHVGG16 has none"):
        HebbianCost().check(HaHVGG16(width=1 / 8, hah_blocks=0))
    with pytest.raises(UserError, match="needs convolutions, and Linear has none"):
        WeightL1().check(nn.Linear(1, 1))
    for options in ({"alphas": [1.0, -1.0]}, {"lam": -0.1}, {"fraction": 1.5}):
        with pytest.raises(UserError):
            HebbianCost(**options)
    with pytest.raises(UserError, match="0 or more, got -1"):
        WeightL1(scale=-1.0)


def test_learners_go_also_after_an_error_in_a_forward_pass():
    network = HaHVGG16(width=1 / 16, hah_blocks=2)

    def step():
        with HebbianCost().collecting(network):
            assert all(block.learner is not None for _, block in hah_blocks(network))
            network(torch.rand(1, 3, 8, 8))

    with pytest.raises(UserError, match="32 to 63"):
        step()
    assert all(block.learner is None for _, block in hah_blocks(network))
