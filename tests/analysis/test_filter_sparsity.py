"""Sparsity of filters: closed forms."""

import math

import pytest
import torch

from lit_robust.analysis.filter_sparsity import filter_sparsity
from lit_robust.errors import UserError


def test_one_weight_is_0_and_equal_magnitudes_are_1():
    weight = torch.zeros(4, 2, 3, 3)
    weight[0, 1, 2, 0] = -5
    weight[1] = torch.tensor([1.0, -1.0]).view(2, 1, 1)
    weight[2, 0, 0, :2] = 3  # two of 18: (2 - 1) / 17
    values = filter_sparsity(weight)
    torch.testing.assert_close(values[:3], torch.tensor([0, 1, 1 / 17]).double())
    assert math.isnan(values[3]), "a filter of zeros has no ratio"


def test_scale_does_not_matter_and_gaussian_weights_have_2_over_pi():
    weight = torch.randn(50, 40, 5, 5, generator=torch.Generator().manual_seed(0))
    values = filter_sparsity(weight)
    torch.testing.assert_close(filter_sparsity(weight * 1e-20), values)
    assert float(values.mean()) == pytest.approx(2 / math.pi, abs=0.01)


def test_a_filter_of_one_weight_is_refused():
    with pytest.raises(UserError, match="one weight"):
        filter_sparsity(torch.ones(3, 1, 1, 1))
