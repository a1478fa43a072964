"""Bounds of whole networks: sound on samples, exact where they must be, and valid for a network that rounds."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lit_robust.bounds import FLOAT32, interval, margins
from lit_robust.errors import UserError
from lit_robust.nn import CIFARResNet18, SmallCNN, Standardize


def seeded(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Residual(nn.Module):
    """Two branches, normalised, added in place, pooled; statistics that are not the initial ones."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(1, 4, 1, bias=False)
        self.norm, self.relu, self.head = nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Linear(4, 3)
        self.norm.running_mean.copy_(seeded(4))
        self.norm.running_var.copy_(seeded(4).abs() + 0.1)

    def forward(self, x):
        identity = self.conv2(x)
        out = self.norm(self.conv1(x))
        out += identity
        return self.head(F.adaptive_avg_pool2d(self.relu(out), 1).flatten(1))


def network(name):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return {
            "small cnn": lambda: SmallCNN(size=16, width=0.2, mean=[0.3], std=[0.4]),
            "residual": Residual,
            "standardised": lambda: nn.Sequential(
                Standardize([0.2], [0.3]), nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten()
            ),
        }[name]().eval()


NETWORKS = ["small cnn", "residual", "standardised"]


def images(seed=0):
    return torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def samples(x, eps, seed):
    """Points of the L∞ ball, half of them corners."""
    u = torch.rand(40, *x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype) * 2 - 1
    return x + eps * torch.cat([u[:20], u[20:].sign()])


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("eps", [0.003, 0.1])
def test_no_sample_of_the_box_is_outside(name, eps):
    net, x = network(name).double(), images()
    lower, upper = interval(net, x - eps, x + eps)
    y = torch.tensor([0, 2, 1])
    least = margins(net, x - eps, x + eps, y)
    for points in samples(x, eps, seed=7):
        z = net(points)
        assert ((z >= lower - 1e-12) & (z <= upper + 1e-12)).all()
        assert (z.gather(1, y[:, None]) - z >= least - 1e-12).all()
    assert (upper > lower).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_box_of_one_point_gives_the_logits(name):
    net, x = network(name).double(), images()
    lower, upper = interval(net, x, x)
    torch.testing.assert_close(lower, net(x), atol=1e-12, rtol=0)
    torch.testing.assert_close(upper, net(x), atol=1e-12, rtol=0)


@settings(max_examples=10, deadline=None)
@given(st.floats(0, 0.3), st.floats(0, 0.3), st.integers(0, 100))
def test_bounds_grow_with_the_box(a, b, seed):
    small, large = sorted((a, b))
    net, x, y = network("small cnn").double(), images(seed), torch.tensor([3, 0, 9])
    inner, outer = (interval(net, x - eps, x + eps) for eps in (small, large))
    assert (outer[0] <= inner[0] + 1e-12).all()
    assert (outer[1] >= inner[1] - 1e-12).all()
    assert (margins(net, x - large, x + large, y) <= margins(net, x - small, x + small, y) + 1e-12).all()


def test_a_linear_classifiers_margins_are_attained_and_bounds_of_two_logits_are_looser():
    net = nn.Sequential(nn.Flatten(), nn.Linear(6, 4)).double()
    x, y, eps = seeded(5, 6), torch.tensor([0, 1, 2, 3, 1]), 0.2
    corners = torch.tensor(list(product([-eps, eps], repeat=6)), dtype=torch.float64)
    z = net[1](x[:, None] + corners)  # (5, 64, 4)
    attained = (z.gather(2, y[:, None, None].expand(5, 64, 1)) - z).amin(1)
    least = margins(net, x - eps, x + eps, y)
    torch.testing.assert_close(least, attained, atol=1e-12, rtol=0)
    lower, upper = interval(net, x - eps, x + eps)
    apart = lower.gather(1, y[:, None]) - upper
    wrong = torch.ones_like(apart, dtype=torch.bool).scatter(1, y[:, None], False)
    assert (apart < least)[wrong].all()
    assert (least.gather(1, y[:, None]) == 0).all()


def test_the_first_convolution_of_a_deep_network_is_exact():
    conv = nn.Conv2d(2, 3, 2, bias=True).double()
    x, eps = seeded(1, 2, 2, 2), 0.3
    lower, upper = interval(conv, x - eps, x + eps)
    corners = torch.tensor(list(product([-eps, eps], repeat=8)), dtype=torch.float64).view(-1, 2, 2, 2)
    z = conv(x + corners)
    torch.testing.assert_close(lower[0], z.amin(0), atol=1e-12, rtol=0)
    torch.testing.assert_close(upper[0], z.amax(0), atol=1e-12, rtol=0)


def test_a_network_without_a_linear_layer_at_its_end_takes_the_logits_bounds():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Sigmoid()).double()
    x, y = seeded(2, 4), torch.tensor([2, 0])
    lower, upper = interval(net, x - 0.1, x + 0.1)
    expected = (lower.gather(1, y[:, None]) - upper).scatter(1, y[:, None], 0.0)
    assert torch.equal(margins(net, x - 0.1, x + 0.1, y), expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_bounds_with_rounding_hold_for_the_float32_network_and_stay_tight(name):
    net, x, y = network(name), images(3).float(), torch.tensor([4, 0, 1]) % 3
    exact = x.double()
    lower, upper = interval(net, exact, exact, rounding=FLOAT32)
    bare, _ = interval(net, exact, exact)
    z = net(x).double().detach()
    lower, upper, bare = (t.detach() for t in (lower, upper, bare))
    assert ((z >= lower) & (z <= upper)).all()
    assert (z != bare).any(), "the float32 network rounds, so without widening it is outside"
    assert float((upper - lower).max()) < 1e-3 * max(1.0, float(z.abs().max()))
    least = margins(net, exact, exact, y, rounding=FLOAT32).detach()
    gaps = (z.gather(1, y[:, None]) - z).scatter(1, y[:, None], 0.0)
    assert (least <= gaps).all()
    assert float((gaps - least).max()) < 2e-3 * max(1.0, float(z.abs().max()))


def test_rounding_lowers_a_margin_by_what_it_moves_two_logits():
    net, x = nn.Sequential(nn.Flatten(), nn.Linear(6, 4)).double().requires_grad_(False), seeded(5, 6)
    y = torch.tensor([0, 1, 2, 3, 1])
    lower, upper = interval(net, x, x, rounding=FLOAT32)
    apart = (lower.gather(1, y[:, None]) - upper).scatter(1, y[:, None], 0.0)
    least, bare = margins(net, x, x, y, rounding=FLOAT32), margins(net, x, x, y)
    assert (least <= apart).all()
    assert ((bare - least) <= 1.5 * (bare - apart)).all()


def test_sums_too_long_for_the_precision_are_refused():
    with pytest.raises(UserError, match="a sum of 1,001 products says nothing"):
        interval(nn.Linear(1000, 2), seeded(1, 1000), seeded(1, 1000), rounding=2.0**-10)


def test_weights_are_taken_in_the_bounds_precision():
    net, x = network("small cnn"), images()
    lower, _ = interval(net, x, x)
    assert lower.dtype == torch.float64
    torch.testing.assert_close(lower, net.double()(x), atol=1e-12, rtol=0)


def test_gradients_are_those_of_finite_differences():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)).double()
    x, y = seeded(2, 1, 4, 4), torch.tensor([1, 2])
    parameters = dict(net.named_parameters())

    def least(lower, upper, *values):
        for (name, _), value in zip(parameters.items(), values, strict=True):
            module, _, leaf = name.rpartition(".")
            net.get_submodule(module)._parameters[leaf] = value
        return margins(net, lower, upper, y)

    values = [p.detach().clone().requires_grad_() for p in parameters.values()]
    ends = (x - 0.1).requires_grad_(), (x + 0.2).requires_grad_()
    assert torch.autograd.gradcheck(least, (*ends, *values))


def test_a_deep_residual_network_of_the_package_has_bounds():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = CIFARResNet18(width=0.0625).eval()
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    lower, upper = interval(net, x - 1e-4, x + 1e-4)
    z = net(x)
    assert ((lower <= z) & (z <= upper)).all()
    assert upper.isfinite().all()


def test_two_convolutions_for_each_of_the_network():
    net, calls = network("small cnn"), []
    real = F.conv2d

    def counted(*args, **kwargs):
        calls.append(args[0].shape)
        return real(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr("lit_robust.bounds.rules.F.conv2d", counted)
        x = images().float()
        margins(net, x - 0.1, x + 0.1, torch.tensor([0, 1, 2]))
    # nn.Conv2d calls the same function with a box, which counts as one more each
    assert len(calls) == 2 * 2 + 2
