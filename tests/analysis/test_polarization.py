"""Measures of polarization against counting by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_robust.analysis import polarization
from lit_robust.analysis.polarization import danger_shares, largest_taps, response_histogram
from lit_robust.errors import UserError


def test_histogram_counts_every_entry_once():
    z = torch.tensor([-1.0, -0.99, -0.51, 0.0, 0.49, 0.5, 0.99, 1.0, 1.0000001, -1.0000001])
    assert response_histogram(z, 4).tolist() == [4, 0, 2, 4]
    assert response_histogram(z, 1).tolist() == [10]
    assert response_histogram(z).dtype == torch.int64


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-64, 64), min_size=1, max_size=40), st.sampled_from([1, 2, 4, 16]))
def test_histogram_is_that_of_its_parts(values, bins):
    z = torch.tensor(values) / 64
    wanted = [0] * bins
    for v in z.tolist():
        wanted[min(int((v + 1) * bins / 2), bins - 1)] += 1
    assert response_histogram(z, bins).tolist() == wanted
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(polarization, "_EXACT", 3)
        assert response_histogram(z, bins).tolist() == wanted


def test_danger_shares_by_hand():
    z = torch.tensor([[[[0.3, 0.45], [-0.39, 0.0]], [[0.5, -0.31], [-0.2, 1.0]]]])
    shares = danger_shares(z, torch.tensor([-0.3, 0.3]), 0.1)
    assert shares.tolist() == [[0.5, 0.25]]
    assert danger_shares(z, torch.tensor([-0.3, 0.3]), 0).tolist() == [[0, 0]]
    assert danger_shares(z, torch.tensor([0.0]), 2).tolist() == [[1, 1]], "an entry near several counts once"
    assert danger_shares(z, torch.tensor([-0.3, 0.3]), 2).tolist() == [[1, 1]]
    two = danger_shares(torch.cat([z, z.flip(1)]), torch.tensor([-0.3, 0.3]), 0.1)
    assert two.tolist() == [[0.5, 0.25], [0.25, 0.5]]


def test_largest_taps():
    weight = torch.zeros(3, 2, 3, 3)
    weight[0, 0, 1, 1] = -2
    weight[1] = 1
    shares = largest_taps(weight)
    assert shares[:2].tolist() == pytest.approx([1, 1 / 18])
    assert shares[2].isnan()


def test_no_bins_are_refused():
    with pytest.raises(UserError, match="at least 1 bin, got 0"):
        response_histogram(torch.zeros(3), 0)
