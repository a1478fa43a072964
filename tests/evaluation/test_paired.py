"""Paired differences against published examples, scipy, a brute-force likelihood and their exact coverage."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import minimize_scalar

from lit_robust.evaluation.paired import PairedCounts, mcnemar, mean_difference, paired_counts, tango

Z = 1.959963984540054
numbers = st.integers(0, 60)
tables = st.builds(
    lambda a, b, c, d: PairedCounts(both=a, only_first=b, only_second=c, neither=d), numbers, numbers, numbers, numbers
).filter(lambda counts: counts.n > 0)


def table(both, only_first, only_second, neither):
    return PairedCounts(both=both, only_first=only_first, only_second=only_second, neither=neither)


def swapped(counts):
    return table(counts.both, counts.only_second, counts.only_first, counts.neither)


# The first three are in Fagerland, Lydersen and Laake, Statistical Analysis of Contingency Tables (2017), chapter 8, as
# the share of one cell minus the other's; the last is of R's PropCIs, scoreci.mp(25, 28, 618, 0.9).
@pytest.mark.parametrize(
    ("counts", "confidence", "interval"),
    [
        (table(1, 7, 1, 12), 0.95, (-0.517, -0.026)),  # airway hyper-responsiveness (Bentur et al., 2009)
        (table(1, 1, 7, 12), 0.95, (0.026, 0.517)),
        (table(59, 16, 6, 80), 0.95, (-0.1240, -0.0054)),  # complete response to therapy (Cavo et al., 2012)
        (table(565, 25, 28, 0), 0.9, (-0.0148, 0.0247)),
    ],
)
def test_tango_gives_the_published_intervals(counts, confidence, interval):
    digits = max(len(str(abs(limit)).partition(".")[2]) for limit in interval)
    assert tuple(round(limit, digits) for limit in tango(counts, confidence)) == interval


def test_mcnemar_gives_the_published_p_value():
    assert mcnemar(table(59, 6, 16, 80)) == pytest.approx(0.052479, abs=5e-7)
    assert mcnemar(table(1, 1, 7, 12)) == pytest.approx(2 * (1 + 8) / 2**8)


def score(counts, delta):
    """Tango's statistic with the constrained likelihood maximised by search instead of by its equation."""
    b, c, rest = counts.only_first, counts.only_second, counts.both + counts.neither

    def loss(p):
        cells = ((b, p), (c, p + delta), (rest, 1 - 2 * p - delta))
        return -sum(k * math.log(max(q, 1e-300)) for k, q in cells if k)

    low, high = max(0.0, -delta), (1 - delta) / 2
    p = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
    return (c - b - counts.n * delta) / math.sqrt(counts.n * (2 * p + delta - delta**2))


@pytest.mark.parametrize(
    "counts", [table(50, 9, 3, 8), table(10, 2, 20, 5), table(0, 15, 15, 0), table(900, 40, 31, 29)]
)
def test_the_score_test_just_accepts_the_limits(counts):
    low, high = tango(counts)
    assert score(counts, low) == pytest.approx(Z, abs=1e-4)
    assert score(counts, high) == pytest.approx(-Z, abs=1e-4)


@given(tables)
def test_the_interval_holds_the_difference_and_turns_with_the_roles(counts):
    low, high = tango(counts)
    assert -1 <= low <= counts.difference <= high <= 1
    assert high - low > 0
    assert tango(swapped(counts)) == pytest.approx((-high, -low), abs=1e-9)
    wider = tango(counts, 0.99)
    assert wider[0] <= low
    assert wider[1] >= high


@given(tables)
def test_the_interval_leaves_0_out_where_mcnemars_score_test_rejects(counts):
    low, high = tango(counts)
    discordant = counts.only_first + counts.only_second
    statistic = (counts.only_first - counts.only_second) ** 2 / discordant if discordant else 0.0
    if abs(statistic - Z**2) > 1e-6:
        assert (low > 0 or high < 0) == (statistic > Z**2)


def test_agreement_on_every_image_is_no_certainty():
    assert tango(table(40, 0, 0, 10)) == pytest.approx((-(Z**2) / (50 + Z**2), Z**2 / (50 + Z**2)), abs=1e-9)
    assert tango(table(0, 20, 0, 0))[0] == -1
    assert tango(table(0, 20, 0, 0))[1] > -0.9
    assert tango(table(0, 0, 0, 0)) == (-1.0, 1.0)


@pytest.mark.parametrize("probabilities", [(0.1, 0.1), (0.25, 0.1), (0.05, 0.3), (0.02, 0.08), (0.3, 0.3)])
def test_coverage_summed_over_every_outcome(probabilities):
    """Probability that 30 pairs give an interval with the true difference in it: exact, nothing is drawn."""
    n, (b, c) = 30, probabilities
    outcomes = [(i, j) for i in range(n + 1) for j in range(n + 1 - i)]
    weight = stats.multinomial.pmf([(i, j, n - i - j) for i, j in outcomes], n, (b, c, 1 - b - c))
    likely = [(o, w) for o, w in zip(outcomes, weight, strict=True) if w > 1e-5]
    covered = 0.0
    for (i, j), w in likely:
        low, high = tango(table(n - i - j, i, j, 0))
        covered += w * (low <= c - b <= high)
    assert 0.94 <= covered / sum(w for _, w in likely) <= 0.975


@given(tables)
def test_mcnemar_is_the_binomial_test_of_the_discordant_pairs(counts):
    discordant = counts.only_first + counts.only_second
    # By hand: twice the smaller tail, at most 1; the distribution is symmetric.
    tail = sum(math.comb(discordant, k) for k in range(min(counts.only_first, counts.only_second) + 1))
    assert mcnemar(counts) == pytest.approx(min(1.0, 2 * tail / 2**discordant))
    assert mcnemar(counts) == pytest.approx(mcnemar(swapped(counts)))


def test_counts_of_pairs():
    first = np.array([True, True, True, False, False, False, False])
    second = np.array([True, False, False, True, True, True, False])
    counts = paired_counts(first, second)
    assert counts == table(1, 2, 3, 1)
    assert counts.n == 7
    assert counts.difference == pytest.approx(second.mean() - first.mean())
    assert table(0, 0, 0, 0).difference == 0
    with pytest.raises(ValueError, match="as many verdicts"):
        paired_counts(first, second[:1])


@given(
    st.lists(st.tuples(st.floats(-10, 10), st.floats(-10, 10)), min_size=3, max_size=40), st.sampled_from([0.9, 0.95])
)
def test_mean_difference_is_scipys(pairs, confidence):
    first, second = np.array(pairs).T
    found = mean_difference(first, second, confidence)
    assert found.n == len(pairs)
    assert found.difference == pytest.approx((second - first).mean(), abs=1e-12)
    if np.ptp(second - first) > 1e-6:
        expected = stats.ttest_rel(second, first).confidence_interval(confidence)
        assert found.interval == pytest.approx((expected.low, expected.high), rel=1e-6, abs=1e-9)


def test_mean_difference_is_over_pairs_that_both_have():
    inf = math.inf
    found = mean_difference(np.array([1.0, inf, 2.0, inf, 4.0]), np.array([2.0, 5.0, inf, inf, 7.0]))
    assert (found.difference, found.n) == (2.0, 2)
    assert found.interval == pytest.approx((2 - stats.t.ppf(0.975, 1), 2 + stats.t.ppf(0.975, 1)))
    assert mean_difference(np.array([1.0]), np.array([3.0])).interval is None
    assert mean_difference(np.array([1.0]), np.array([inf])).difference is None
    with pytest.raises(ValueError, match="as many numbers"):
        mean_difference(np.zeros(2), np.zeros(3))
