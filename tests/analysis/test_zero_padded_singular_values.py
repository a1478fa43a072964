"""Singular values with zero padding: the operator against torch's convolution, its matrix, and Lanczos steps."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lit_robust.analysis import dense_singular_values as dense
from lit_robust.analysis.conv_operator import ConvOperator
from lit_robust.analysis.leading_singular_values import leading_singular_values
from lit_robust.errors import UserError


def layer(channels=(3, 5), kernel=3, seed=0, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Conv2d(*channels, kernel, bias=False, **options).double()


def explicit(conv, size):
    """The matrix as torch's convolution of each basis image."""
    basis = torch.eye(conv.in_channels * size[0] * size[1], dtype=torch.float64)
    with torch.no_grad():
        return conv(basis.view(-1, conv.in_channels, *size)).flatten(1).T


@settings(max_examples=25, deadline=None)
@given(
    groups=st.integers(1, 2),
    channels=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 4)),
    size=st.tuples(st.integers(5, 7), st.integers(7, 8)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 1)),
    dilation=st.integers(1, 2),
)
def test_the_operator_is_torchs_convolution(groups, channels, kernel, size, stride, padding, dilation):
    channels = tuple(c * groups for c in channels)
    conv = layer(channels, kernel, stride=stride, padding=padding, dilation=dilation, groups=groups)
    operator, wanted = ConvOperator.of(conv, size), explicit(conv, size)
    assert operator.shape == wanted.shape
    torch.testing.assert_close(dense.matrix(operator), wanted)
    columns = torch.eye(len(wanted), dtype=torch.float64).view(-1, *operator.out_shape)
    torch.testing.assert_close(operator.adjoint(columns).flatten(1), wanted)
    assert operator.squared_norm == pytest.approx(float(wanted.square().sum()))
    torch.testing.assert_close(dense.dense_singular_values(operator), torch.linalg.svdvals(wanted))


@pytest.mark.parametrize("kernel", [3, 4, (2, 5)])
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_named_paddings(kernel, padding):
    conv = layer(kernel=kernel, padding=padding)
    torch.testing.assert_close(dense.matrix(ConvOperator.of(conv, (6, 5))), explicit(conv, (6, 5)))


@pytest.mark.parametrize(("channels", "stride"), [((3, 6), 1), ((6, 3), 1), ((4, 4), 2)])
def test_lanczos_finds_the_leading_values(channels, stride):
    operator = ConvOperator.of(layer(channels, stride=stride, padding=1), (8, 8))
    wanted = dense.dense_singular_values(operator)[:12]
    found = leading_singular_values(operator, 12)
    assert found.shape == (12,)
    torch.testing.assert_close(found, wanted, rtol=1e-7, atol=0)
    torch.testing.assert_close(leading_singular_values(operator, 12, seed=5), wanted, rtol=1e-7, atol=0)


def test_lanczos_finds_values_that_occur_several_times():
    weight = torch.diag(torch.tensor([3.0, 2.0], dtype=torch.float64))[:, :, None, None]
    found = leading_singular_values(ConvOperator(weight=weight, size=(3, 3)), 12)
    torch.testing.assert_close(found, torch.tensor([3.0] * 9 + [2.0] * 3, dtype=torch.float64))


def test_a_matrix_that_is_too_large_is_refused_before_it_is_made(monkeypatch):
    monkeypatch.setattr(dense, "matrix", lambda operator: pytest.fail("the matrix was made"))
    operator = ConvOperator.of(nn.Conv2d(64, 64, 3, padding=1), (32, 32))
    with pytest.raises(UserError, match=r"65,536 x 65,536 and takes 64\.00 GiB .*leading_singular_values"):
        dense.dense_singular_values(operator)


def test_the_memory_counts_the_matrix_and_a_copy():
    operator = ConvOperator.of(layer((2, 4), padding=1), (4, 4))
    assert dense.dense_memory(operator) == 2 * 8 * 64 * 32 / 2**30
    assert len(dense.dense_singular_values(operator, memory_gib=dense.dense_memory(operator))) == 32
    with pytest.raises(UserError, match="memory_gib is"):
        dense.dense_singular_values(operator, memory_gib=dense.dense_memory(operator) * 0.99)


@pytest.mark.parametrize("k", [0, 32])
def test_k_must_be_below_the_number_of_values(k):
    with pytest.raises(UserError, match=f"k from 1 to 31, .* got {k}; dense_singular_values gives all"):
        leading_singular_values(ConvOperator.of(layer((2, 4), padding=1), (4, 4)), k)


@pytest.mark.parametrize("mode", ["circular", "reflect"])
def test_other_paddings_are_refused(mode):
    operator = ConvOperator.of(layer(padding=1, padding_mode=mode), (4, 4))
    for refused in (dense.dense_singular_values, lambda each: leading_singular_values(each, 2)):
        with pytest.raises(UserError, match=f"padding_mode='{mode}'; .*padding: circular"):
            refused(operator)
