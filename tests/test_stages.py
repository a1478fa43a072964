"""Stages of a run: equal parts, pure functions of the epoch."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_robust.stages import StagePlace, stage_place, stage_starts


def test_the_published_stages():
    assert stage_starts(60, 3) == [0, 20, 40, 60]
    assert stage_place(0, 60, 3) == StagePlace(0, 0, 20)
    assert stage_place(19, 60, 3) == StagePlace(0, 19, 20)
    assert stage_place(20, 60, 3) == StagePlace(1, 0, 20)
    assert stage_place(40, 60, 3) == StagePlace(2, 0, 20)
    assert stage_place(59, 60, 3) == stage_place(60, 60, 3) == StagePlace(2, 19, 20)


def test_the_ramp_is_the_codes_for_a_peak_of_19_twentieths():
    for epoch in range(60):
        assert 0.95 * stage_place(epoch, 60, 3).ramp == pytest.approx((epoch % 20) / 20)
    assert [stage_place(e, 3, 3).ramp for e in range(3)] == [1, 1, 1]


@given(st.integers(1, 200), st.integers(1, 7))
def test_stages_are_equal_parts_in_order(epochs, stages):
    starts = stage_starts(epochs, stages)
    lengths = [b - a for a, b in pairwise(starts)]
    assert starts[0] == 0
    assert starts[-1] == epochs
    assert max(lengths) - min(lengths) <= 1
    places = [stage_place(epoch, epochs, stages) for epoch in range(epochs)]
    wanted = [(s, e, n) for s, n in enumerate(lengths) for e in range(n)]
    assert [(p.stage, p.epoch, p.epochs) for p in places] == wanted
    assert all(0 <= p.ramp <= 1 for p in places)
