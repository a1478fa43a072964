"""Responses of filters to patches, and densities over a symmetric range."""

import numpy as np
import torch

from lit_robust.analysis.patch_responses import patch_responses, symmetric_density


def test_responses_are_inner_products_with_filters_of_norm_one():
    generator = torch.Generator().manual_seed(0)
    patches, filters = (torch.randn(n, 2, 3, 3, generator=generator) for n in (4, 5))
    expected = torch.stack([torch.stack([(p * f).sum() / f.norm() for f in filters]) for p in patches])
    torch.testing.assert_close(patch_responses(patches, filters), expected)
    torch.testing.assert_close(patch_responses(patches, 7 * filters), expected)


def test_a_filter_of_zeros_responds_with_zero():
    assert not patch_responses(torch.ones(2, 1, 2, 2), torch.zeros(3, 1, 2, 2)).any()


def test_the_density_is_numpys_over_the_symmetric_range():
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    edges, heights = symmetric_density(values, 50)
    largest = float(values.abs().max())
    wanted, places = np.histogram(values.double().numpy(), bins=50, range=(-largest, largest), density=True)
    np.testing.assert_allclose(edges.numpy(), places, atol=1e-12)
    np.testing.assert_allclose(heights.numpy(), wanted)


def test_the_ends_count_and_equal_values_have_a_density():
    edges, heights = symmetric_density(torch.tensor([-2.0, 2.0]), 4)
    assert edges.tolist() == [-2, -1, 0, 1, 2]
    assert heights.tolist() == [0.5, 0, 0, 0.5]
    assert torch.isfinite(symmetric_density(torch.zeros(3))[1]).all()
