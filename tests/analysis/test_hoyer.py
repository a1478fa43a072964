"""The squared Hoyer measure against closed forms."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_robust.analysis import hoyer
from lit_robust.errors import UserError


@settings(deadline=None, derandomize=True, max_examples=40)
@given(channels=st.integers(2, 20), data=st.data())
def test_k_equal_channels_of_n_are_k_minus_1_of_n_minus_1(channels, data):
    k = data.draw(st.integers(1, channels))
    scale = data.draw(st.sampled_from([1.0, -3.0, 1e-30, 1e18]))
    activations = torch.zeros(1, channels)
    activations[0, data.draw(st.permutations(range(channels)))[:k]] = scale
    value, silent = hoyer(activations)
    assert float(value) == pytest.approx((k - 1) / (channels - 1), abs=1e-6)
    assert float(silent) == 0


def test_one_hot_is_0_and_constant_is_1_in_space_too():
    one_hot = torch.zeros(1, 5, 3, 2)
    one_hot[:, 3] = 0.7
    assert float(hoyer(one_hot).value) == 0
    assert float(hoyer(torch.full((1, 5, 3, 2), -0.2)).value) == pytest.approx(1)


def test_the_formula():
    activations = torch.tensor([[1.0, 2.0, 3.0]])
    assert float(hoyer(activations).value) == pytest.approx((36 / 14 - 1) / 2)


def test_locations_are_averaged_and_silent_ones_left_out_and_counted():
    activations = torch.zeros(2, 2, 1, 4)
    activations[0, :, 0, 0] = 1.0  # 1
    activations[0, 0, 0, 1] = 1.0  # 0
    activations[1, :, 0, :] = 2.0
    value, silent = hoyer(activations)
    assert value.tolist() == [0.5, 1.0]
    assert silent.tolist() == [0.5, 0.0]


def test_an_image_without_activation_has_no_sparsity():
    value, silent = hoyer(torch.zeros(1, 3, 2, 2))
    assert value.isnan().all()
    assert silent.tolist() == [1.0]


@pytest.mark.parametrize("shape", [(2, 1, 4, 4), (2, 1)])
def test_a_single_channel_is_refused(shape):
    with pytest.raises(UserError, match="a single channel has no sparsity"):
        hoyer(torch.rand(shape))


def test_other_shapes_are_refused():
    with pytest.raises(UserError, match=r"expected activations \(N, C\) or \(N, C, H, W\), got shape \(2, 3, 4\)"):
        hoyer(torch.rand(2, 3, 4))
