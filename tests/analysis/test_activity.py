"""Strong and weak channels against values worked out by hand, and patch norms against unfolded patches."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lit_robust.analysis import (
    activity_rates,
    channel_means,
    disparity,
    most_active,
    nearly_always,
    nearly_never,
    patch_norms,
)
from lit_robust.analysis.activity import strongest
from lit_robust.errors import UserError


@pytest.mark.parametrize(
    ("channels", "fraction", "k"), [(64, 0.1, 7), (128, 0.1, 13), (256, 0.1, 26), (100, 0.07, 7), (2, 0.1, 1)]
)
def test_the_number_of_strongest_channels_is_rounded_up(channels, fraction, k):
    assert strongest(channels, fraction) == k


@pytest.mark.parametrize(("channels", "fraction"), [(1, 0.1), (4, 0.9)])
def test_no_rest_is_refused(channels, fraction):
    with pytest.raises(UserError, match="leaves none for the rest"):
        strongest(channels, fraction)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 2])
def test_a_fraction_out_of_range_is_refused(fraction):
    with pytest.raises(UserError, match=r"fraction of the channels in \(0, 1\)"):
        disparity(torch.rand(1, 4), fraction=fraction)


def test_disparity_by_hand():
    activations = torch.tensor([[[[5.0, 0.0]], [[1.0, 2.0]], [[3.0, 4.0]], [[0.0, 0.0]]]])  # 4 channels, 2 locations
    top, rest = disparity(activations, fraction=0.5)
    assert float(top) == pytest.approx((8 / 2 + 6 / 2) / 2)
    assert float(rest) == pytest.approx((1 / 2 + 0) / 2)
    halved, _ = disparity(activations, fraction=0.5, norms=torch.full((1, 1, 1, 2), 2.0))
    assert float(halved) == pytest.approx(float(top) / 2, rel=1e-5)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(seed=st.integers(0, 99), channels=st.integers(2, 30), fraction=st.sampled_from([0.1, 0.3, 0.49]))
def test_disparity_agrees_with_sorted_channels(seed, channels, fraction):
    y = torch.rand(2, channels, 3, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    k = strongest(channels, fraction)
    ordered = y.sort(1, descending=True).values
    top, rest = disparity(y, fraction=fraction)
    torch.testing.assert_close(top, ordered[:, :k].mean((1, 2, 3)))
    torch.testing.assert_close(rest, ordered[:, k:].mean((1, 2, 3)))


def test_the_rest_is_never_below_zero():
    # The K strongest are all there is, and a sum in another order rounds differently.
    generator = torch.Generator().manual_seed(0)
    y = torch.zeros(500, 100).scatter_(1, torch.rand(500, 100, generator=generator).argsort(1)[:, :10], 1.0)
    y *= torch.rand(500, 100, generator=generator)
    rest = disparity(y, fraction=0.1).rest
    assert rest.amin() >= 0
    assert rest.amax() < 1e-6


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3},
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": (3, 2), "padding": (1, 0), "stride": (2, 1)},
        {"kernel_size": 3, "padding": 2, "dilation": 2},
        {"kernel_size": 1},
    ],
)
def test_patch_norms_are_those_of_unfolded_patches(options):
    x = torch.randn(2, 4, 7, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    conv = nn.Conv2d(4, 5, **options)
    unfolded = F.unfold(x, conv.kernel_size, conv.dilation, conv.padding, conv.stride)
    norms = patch_norms(x, conv)
    assert norms.shape == (2, 1, *conv(x.float()).shape[2:])
    torch.testing.assert_close(norms.flatten(1), unfolded.norm(dim=1))


@pytest.mark.parametrize(
    "options",
    [
        {"padding": 1, "groups": 2},
        {"padding": "same"},
        {"padding": 1, "padding_mode": "reflect"},
        {"padding": "same", "padding_mode": "circular", "groups": 4},
    ],
)
def test_patch_norms_with_groups_and_any_padding(options):
    # An output is a product of filter and patch: its derivative in the filter is the patch.
    x = torch.randn(1, 4, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    conv = nn.Conv2d(4, 4, 3, bias=False, dtype=torch.float64, **options)
    weight = conv.weight.detach()
    norms = patch_norms(x, conv)
    assert norms.shape == (1, 1 if conv.groups == 1 else 4, 5, 5)
    for i, j in ((0, 0), (2, 3), (4, 4)):

        def outputs(w, i=i, j=j):
            return torch.func.functional_call(conv, {"weight": w}, (x,))[0, :, i, j]

        patches = torch.autograd.functional.jacobian(outputs, weight)
        expected = torch.stack([patches[k, k].norm() for k in range(4)])
        torch.testing.assert_close(norms[0, :, i, j], expected[: norms.shape[1]])


def test_a_cauchy_schwarz_bound_holds_for_a_unit_filter():
    # Divided by the norms of filter and patch, no activation exceeds 1.
    x = torch.rand(3, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    conv = nn.Conv2d(4, 8, 3, padding=1, bias=False)
    with torch.no_grad():
        conv.weight.div_(conv.weight.flatten(1).norm(dim=1)[:, None, None, None])
        y = conv(x).relu()
        assert (y / patch_norms(x, conv)).amax() <= 1 + 1e-5


def test_channel_means_are_after_a_relu():
    y = torch.tensor([[[[1.0, -3.0]], [[-1.0, -1.0]]]])
    assert channel_means(y).tolist() == [[0.5, 0.0]]
    assert channel_means(torch.tensor([[2.0, -2.0]])).tolist() == [[2.0, 0.0]]


def test_the_most_active_channels_of_each_image():
    means = torch.tensor([[0.1, 0.5, 0.3, 0.0], [0.2, 0.2, 0.2, 0.2], [0.0, 0.0, 0.0, 0.4]])
    assert most_active(means, fraction=0.5).tolist() == [[1, 2], [0, 1], [3, -1]]


def test_rates_count_images_and_no_silent_channels():
    active = torch.tensor([[1, 2], [1, -1], [1, 0], [-1, -1]])
    assert activity_rates(active, 4).tolist() == [0.25, 0.75, 0.25, 0.0]


def test_95_and_5_percent_of_the_images_are_the_limits():
    rates = torch.tensor([1.0, 19 / 20, 18 / 20, 1 / 20, 0.9 / 20], dtype=torch.float64)
    assert nearly_always(rates) == pytest.approx(2 / 5)
    assert nearly_never(rates) == pytest.approx(1 / 5)


def test_a_fixed_set_of_channels_is_found_and_a_changing_one_is_not():
    generator = torch.Generator().manual_seed(0)
    changing = torch.rand(200, 20, generator=generator)
    fixed = changing.clone()
    fixed[:, [3, 17]] += 1
    rates = [activity_rates(most_active(m, fraction=0.1), 20) for m in (fixed, changing)]
    assert [nearly_always(r) for r in rates] == [0.1, 0.0]
    assert [nearly_never(r) for r in rates] == [0.9, 0.0]
