"""Wilson's interval against its closed formula."""

import math

import pytest

from lit_robust.evaluation import wilson


def closed(successes, n, z):
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return centre - half, centre + half


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (10, 10), (1, 1), (7, 10), (4327, 10_000), (360, 397)])
@pytest.mark.parametrize(("confidence", "z"), [(0.95, 1.959963984540054), (0.99, 2.5758293035489004)])
def test_equals_the_formula(successes, n, confidence, z):
    low, high = closed(successes, n, z)
    assert wilson(successes, n, confidence) == pytest.approx((max(0.0, low), min(1.0, high)), abs=1e-12)


def test_is_of_95_percent_unless_told():
    assert wilson(50, 100) == pytest.approx(closed(50, 100, 1.959963984540054), abs=1e-12)


def test_nothing_measured_is_nothing_known():
    assert wilson(0, 0) == (0.0, 1.0)


def test_certainty_is_never_claimed():
    assert wilson(20, 20)[0] < 0.9
    assert wilson(0, 20)[1] > 0.1
