"""Fits of a decay and of a line: known parameters come back, and the better one is told from the other."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import curve_fit

from lit_robust.analysis.decay_fit import compare_fits, fit_decay, fit_line

K = list(range(11))


def decay(k, a, b, c):
    return a * np.exp(-b * np.asarray(k, dtype=float)) + c


def noisy(function, seeds=3, scale=0.02, k=K):
    generator = np.random.default_rng(7)
    return [
        dict(zip(k, function(np.asarray(k)) + scale * generator.normal(size=len(k)), strict=True)) for _ in range(seeds)
    ]


@settings(max_examples=40, deadline=None)
@given(
    st.floats(0.1, 5),
    st.sampled_from([-1, 1]),
    st.floats(0.05, 2),
    st.floats(-3, 3),
    st.sampled_from([K, [2, 4, 6, 8, 10], [0, 1, 5, 40]]),
)
def test_the_parameters_of_an_exact_decay_come_back(a, sign, b, c, k):
    if b * np.ptp(k) > 30:
        b = 30 / np.ptp(k)  # or all but one point are c to the last digit
    found = fit_decay(k, decay(k, sign * a, b, c))
    assert dict(found.parameters) == pytest.approx({"a": sign * a, "b": b, "c": c}, rel=1e-3, abs=1e-4)
    assert found.r2 == pytest.approx(1, abs=1e-9)


def test_a_line_is_the_regression_of_numpy():
    values = np.random.default_rng(0).normal(size=11)
    slope, intercept = np.polyfit(K, values, 1)
    found = fit_line(K, values)
    assert dict(found.parameters) == pytest.approx({"slope": slope, "intercept": intercept})
    residuals = values - slope * np.asarray(K) - intercept
    assert found.r2 == pytest.approx(np.corrcoef(K, values)[0, 1] ** 2)
    assert found.aic == pytest.approx(11 * math.log(np.mean(residuals**2)) + 6)


def test_a_noisy_decay_is_no_worse_than_scipy_s_fit_from_the_truth():
    values = decay(K, 2, 0.4, 0.5) + 0.05 * np.random.default_rng(3).normal(size=11)
    (a, b, c), _ = curve_fit(decay, K, values, p0=(2, 0.4, 0.5))
    found = fit_decay(K, values)
    assert dict(found.parameters) == pytest.approx({"a": a, "b": b, "c": c}, rel=1e-4)
    residuals = values - decay(K, a, b, c)
    assert found.aic == pytest.approx(11 * math.log(np.mean(residuals**2)) + 8, abs=1e-6)


def test_a_curve_that_is_over_at_the_first_step_and_one_that_starts_late_are_found():
    assert fit_decay([5, 6, 7, 8], [3, 1, 1, 1]).r2 > 0.999
    shifted = fit_decay([5, 6, 7, 8, 9], decay([5, 6, 7, 8, 9], 10, 0.5, 1))
    assert dict(shifted.parameters) == pytest.approx({"a": 10, "b": 0.5, "c": 1}, rel=1e-3)


def test_a_decay_and_a_line_are_told_apart():
    falling = compare_fits(noisy(lambda k: decay(k, 2, 0.5, 0.3)))
    assert falling["decay"]["b"] == pytest.approx(0.5, abs=0.05)
    assert falling["decay"]["r2"] > 0.99 > falling["line"]["r2"]
    assert falling["aic_difference"]["value"] < -50
    assert falling["aic_difference"]["interval_95"][1] < 0
    assert (falling["seeds"], falling["points"]) == (3, 33)
    straight = compare_fits(noisy(lambda k: 3 - 0.2 * k))
    assert straight["line"]["slope"] == pytest.approx(-0.2, abs=0.01)
    assert straight["aic_difference"]["value"] == pytest.approx(2, abs=1.5), "a parameter more that is good for nothing"
    assert straight["aic_difference"]["interval_95"][1] > 0


def test_intervals_are_the_quantiles_of_fits_to_drawn_seeds():
    seeds = noisy(lambda k: decay(k, 2, 0.5, 0.3), seeds=2, scale=0.1)
    found = compare_fits(seeds, draws=4000)
    both = [fit_decay(K * 2, [*one.values(), *two.values()]).parameters["b"] for one in seeds for two in seeds]
    low, high = found["decay"]["interval_95"]["b"]
    assert (low, high) == pytest.approx((min(both), max(both))), "a quarter of the draws each"
    assert found["decay"]["b"] == pytest.approx(both[1])
    assert compare_fits(seeds, draws=4000) == found


def test_one_seed_has_no_interval_and_a_seed_without_points_does_not_count():
    (one,) = noisy(lambda k: decay(k, 2, 0.5, 0.3), seeds=1)
    found = compare_fits([one, {}])
    assert found["seeds"] == 1
    assert found["decay"]["interval_95"]["b"] is None
    assert found["aic_difference"]["interval_95"] is None


def test_few_points_are_no_fit_and_missing_ones_no_obstacle():
    assert compare_fits([{0: 1.0, 1: 0.5, 2: 0.3}] * 3) is None
    assert compare_fits([]) is None
    found = compare_fits([{0: 1.0, 1: 0.5, 2: 0.3}, {3: 0.2, 0: 1.1}])
    assert found["points"] == 5
    assert found["decay"]["r2"] > 0.9
    assert found["decay"]["interval_95"]["r2"] is not None, "draws of four places or more count"


def test_values_that_are_all_the_same_have_no_share_of_variance():
    found = fit_decay(K, [0.1] * 11)
    assert math.isnan(found.r2)
    assert math.isfinite(found.aic)
    assert compare_fits([dict.fromkeys(K, 0.1)] * 2)["line"]["r2"] is None


@pytest.mark.parametrize(
    ("fit", "k", "values", "said"),
    [
        (fit_decay, [0, 1, 2], [1, 2, 3], "at least 4 different places, got 3"),
        (fit_line, [0, 1, 1], [1, 2, 3], "at least 3 different places, got 2"),
        (fit_line, [0, 1, 2], [1, 2], "as many places as values"),
        (fit_decay, [0, 1, 2, 3], [1, 2, math.nan, 1], "finite"),
    ],
)
def test_points_that_cannot_be_fitted(fit, k, values, said):
    with pytest.raises(ValueError, match=said):
        fit(k, values)
