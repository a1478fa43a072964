"""Singular values on a torus against the matrix of the operator, rolled by hand; and closed forms."""

from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lit_robust.analysis.circular_singular_values import circular_singular_values
from lit_robust.analysis.conv_operator import ConvOperator
from lit_robust.errors import UserError
from lit_robust.nn import WeightNormConv2d


def operator(channels, size, kernel=3, stride=1, dilation=1, groups=1, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layer = nn.Conv2d(*channels, kernel, stride, 1, dilation, groups)
    return ConvOperator.of(layer, size)


def rolled(op):
    """The matrix on a torus: each tap is a shift of the basis, and a stride keeps some of the places."""
    basis = torch.eye(prod(op.in_shape), dtype=torch.float64).view(-1, *op.in_shape)
    outputs = len(op.weight) // op.groups
    inputs = op.weight.shape[1]
    total = torch.zeros(len(basis), len(op.weight), *op.size, dtype=torch.float64)
    for row in range(op.weight.shape[2]):
        for column in range(op.weight.shape[3]):
            shifted = basis.roll((-row * op.dilation[0], -column * op.dilation[1]), (2, 3))
            for group in range(op.groups):
                out = slice(group * outputs, (group + 1) * outputs)
                seen = shifted[:, group * inputs : (group + 1) * inputs]
                total[:, out] += torch.einsum("ncij,oc->noij", seen, op.weight[out, :, row, column])
    return total[:, :, :: op.stride[0], :: op.stride[1]].flatten(1).T


def agree(op, tolerance=1e-6):
    values, dense = circular_singular_values(op), torch.linalg.svdvals(rolled(op))
    assert values.dtype == torch.float64
    assert values.shape == dense.shape
    assert bool((values.diff() <= 0).all())
    assert float((values - dense).abs().max()) <= tolerance * float(dense[0])


@pytest.mark.parametrize("channels", [(3, 5), (4, 4), (5, 2)])
@pytest.mark.parametrize(("size", "stride"), [((6, 8), 1), ((7, 5), 1), ((6, 8), 2), ((2, 2), 2), ((9, 6), 3)])
def test_values_are_those_of_the_matrix(channels, size, stride):
    agree(operator(channels, size, stride=stride))


@pytest.mark.parametrize(
    "options",
    [
        {"kernel": 5, "size": (3, 2)},  # filters that are larger than the map go round it
        {"kernel": (3, 2), "size": (4, 6), "stride": (2, 3)},
        {"kernel": 3, "size": (6, 5), "dilation": 2},
        {"kernel": 3, "size": (6, 4), "dilation": 3, "stride": 2},
        {"kernel": 1, "size": (4, 4), "stride": 2},
        {"kernel": 3, "size": (4, 6), "groups": 2, "stride": 2},
        {"kernel": 3, "size": (5, 4), "groups": 4, "channels": (4, 8)},
        {"kernel": 3, "size": (1, 1)},
    ],
)
def test_kernels_dilations_and_groups(options):
    agree(operator(**{"channels": (4, 6), **options}))


@settings(max_examples=25, deadline=None)
@given(
    channels=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    coarse=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    dilation=st.integers(1, 3),
    seed=st.integers(0, 100),
)
def test_any_small_shape(channels, coarse, kernel, stride, dilation, seed):
    size = tuple(c * s for c, s in zip(coarse, stride, strict=True))
    agree(operator(channels, size, kernel, stride, dilation, seed=seed))


def test_an_identity_has_only_ones():
    weight = torch.zeros(3, 3, 3, 3, dtype=torch.float64)
    weight[range(3), range(3), 1, 1] = 1
    values = circular_singular_values(ConvOperator(weight=weight, size=(5, 4)))
    torch.testing.assert_close(values, torch.ones(60, dtype=torch.float64))


def test_a_1x1_convolution_repeats_the_values_of_its_matrix():
    weight = torch.randn(3, 5, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = circular_singular_values(ConvOperator(weight=weight, size=(4, 3)))
    wanted = torch.linalg.svdvals(weight[:, :, 0, 0]).repeat_interleave(12)
    torch.testing.assert_close(values, wanted)


def test_a_strided_delta_picks_some_pixels_and_has_only_ones():
    weight = torch.zeros(1, 1, 3, 3, dtype=torch.float64)
    weight[0, 0, 1, 1] = 1
    values = circular_singular_values(ConvOperator(weight=weight, size=(6, 4), stride=(2, 2)))
    torch.testing.assert_close(values, torch.ones(6, dtype=torch.float64))
    doubled = circular_singular_values(ConvOperator(weight=weight.repeat(2, 1, 1, 1), size=(6, 4), stride=(2, 2)))
    torch.testing.assert_close(doubled, 2**0.5 * torch.cat([torch.ones(6), torch.zeros(6)]).double())


def test_small_values_are_right_to_1e_7_of_the_largest():
    scale = torch.logspace(0, -12, 13, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(13, 13, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    weight = (turn @ torch.diag(scale) @ turn.roll(1, 0))[:, :, None, None]
    values = circular_singular_values(ConvOperator(weight=weight, size=(2, 2)))
    wanted = scale.repeat_interleave(4)
    assert float((values - wanted).abs().max()) < 1e-7
    large = wanted >= 1e-4
    torch.testing.assert_close(values[large], wanted[large], rtol=1e-6, atol=0)


def test_chunks_and_threads_change_nothing(monkeypatch):
    op = operator((3, 4), (8, 6), stride=2)
    values = circular_singular_values(op)
    monkeypatch.setattr("lit_robust.analysis.circular_singular_values._CHUNK", 1000)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    torch.testing.assert_close(circular_singular_values(op), values)


def test_filters_that_are_normalised_count_as_they_are():
    layer = WeightNormConv2d(3, 4)
    values = circular_singular_values(ConvOperator.of(layer, (4, 4)))
    with torch.no_grad():
        layer.weight.mul_(7)
    torch.testing.assert_close(circular_singular_values(ConvOperator.of(layer, (4, 4))), values, rtol=1e-5, atol=1e-6)


def test_a_stride_that_does_not_divide_is_refused():
    with pytest.raises(UserError, match=r"stride \(2, 2\) does not divide the input's 7x8.*padding: zeros"):
        circular_singular_values(operator((2, 2), (7, 8), stride=2))
    with pytest.raises(UserError, match="2-D convolution, got Linear"):
        ConvOperator.of(nn.Linear(3, 3), (4, 4))
