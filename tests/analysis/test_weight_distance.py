"""The distance of two samples of filters: scipy's, closed forms, and what its interval says."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

from lit_robust.analysis.weight_distance import wasserstein, weight_distance

SAMPLES = st.lists(st.integers(-20, 20), min_size=1, max_size=9)


def normal(n, seed, shift=0.0):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed)) + shift


@settings(max_examples=60, deadline=None)
@given(SAMPLES, SAMPLES)
def test_it_is_scipys(a, b):
    found = wasserstein(torch.tensor([a, a]).double(), torch.tensor([b, b]).double())
    assert found.tolist() == pytest.approx([wasserstein_distance(a, b)] * 2, abs=1e-12)


def test_a_shift_counts_in_standard_deviations_whatever_the_unit():
    a = normal(200, 0)
    found = weight_distance(a, a + 2 * a.std())
    assert found.value == pytest.approx(2)
    assert 1.6 < found.low < 2 < found.high < 2.4
    assert found.p == pytest.approx(1 / 1001)
    scaled = weight_distance(1000 * a + 5, 1000 * (a + 2 * a.std()) + 5)
    assert scaled == pytest.approx(found, rel=1e-4)


def test_the_pooled_deviation_is_within_the_samples():
    a, b = normal(30, 0), 3 * normal(50, 1)
    pooled = math.sqrt((29 * float(a.var()) + 49 * float(b.var())) / 78)
    assert weight_distance(a, b).value == pytest.approx(wasserstein_distance(a, b) / pooled, rel=1e-5)


def test_the_interval_reaches_0_exactly_where_chance_explains_the_distance():
    found = [weight_distance(normal(40, 2 * i), normal(40, 2 * i + 1), seed=i, resamples=200) for i in range(40)]
    assert all((each.low == 0) == (each.p >= 0.05) for each in found)
    assert all(each.low <= each.value for each in found)
    assert sum(each.low > 0 for each in found) <= 6, "of 40 pairs of one distribution about 2 differ by chance"
    assert min(each.value for each in found) > 0


def test_intervals_hold_the_true_distance():
    held = 0
    for i in range(40):
        found = weight_distance(normal(60, 2 * i), normal(60, 2 * i + 1, shift=1.0), seed=i, resamples=200)
        held += found.low <= 1 <= found.high
        assert found.p < 0.05
    assert held >= 33


def test_seeds_and_what_has_no_distance():
    a, b = normal(20, 0), normal(25, 1, shift=0.5)
    assert weight_distance(a, b, seed=3) == weight_distance(a, b, seed=3)
    assert weight_distance(a, b, seed=3)[1:] != weight_distance(a, b, seed=4)[1:]
    assert weight_distance(a, b, seed=3).value == weight_distance(a, b, seed=4).value
    assert weight_distance(torch.ones(5), torch.ones(7)) == (0, 0, 0, 1)
    assert all(map(math.isnan, weight_distance(torch.ones(5), torch.zeros(7))))
    assert all(map(math.isnan, weight_distance(torch.ones(1), b)))
