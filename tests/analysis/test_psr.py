"""The perturbation-to-signal ratio of known vectors, near the ends of float32, and of images in any batch."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_robust.analysis.psr import psr, truncate_8_bit

NORMS = [1, 2, math.inf]


def ratios(clean, perturbed, p):
    clean, perturbed = (v.double().flatten(1).numpy() for v in (clean, perturbed))
    return np.linalg.norm(perturbed - clean, p, axis=1) / np.linalg.norm(clean, p, axis=1)


@pytest.mark.parametrize(
    ("p", "expected"), [(1, [4 / 7, 0.0]), (2, [math.sqrt(10) / 5, 0.0]), (math.inf, [3 / 4, 0.0])]
)
def test_known_vectors(p, expected):
    clean = torch.tensor([[[3.0], [-4.0]], [[1.0], [2.0]]])
    perturbed = torch.tensor([[[3.0 + 3], [-4.0 + 1]], [[1.0], [2.0]]])
    torch.testing.assert_close(psr(clean, perturbed, p), torch.tensor(expected))


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("shape", [(5, 7), (5, 3, 4, 5), (3, 2, 300, 250)])
def test_the_norms_are_numpy_s_over_all_of_an_image(p, shape):
    clean, perturbed = (torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    np.testing.assert_allclose(psr(clean, perturbed, p).numpy(), ratios(clean, perturbed, p), rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(scale=st.floats(1e-30, 1e30), p=st.sampled_from(NORMS), seed=st.integers(0, 99))
def test_a_scaling_layer_changes_nothing_also_where_squares_leave_float32(scale, p, seed):
    generator = torch.Generator().manual_seed(seed)
    clean, change = torch.randn(2, 3, 50, generator=generator)
    torch.testing.assert_close(psr(scale * clean, scale * (clean + change), p), psr(clean, clean + change, p))


def test_sums_of_half_precision_are_of_float32():
    clean, perturbed = torch.full((1, 2**17), 4.0).half(), torch.full((1, 2**17), 5.0).half()
    for p in NORMS:
        assert psr(clean, perturbed, p).dtype == torch.float32
        assert psr(clean, perturbed, p).item() == 0.25
    assert psr(clean.double(), perturbed.double(), 2).dtype == torch.float64


@pytest.mark.parametrize("p", NORMS)
def test_without_signal_there_is_no_ratio_and_without_change_it_is_0(p):
    clean = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [math.inf, 0.0]])
    perturbed = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    found = psr(clean, perturbed, p)
    assert found.isnan().tolist() == [True, True, False, True]
    assert found[2] == 0


@pytest.mark.parametrize("p", NORMS)
def test_an_image_has_the_same_ratio_in_every_batch(p):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # where torch splits a long row that is alone
    try:
        for size in (1500, 131_000, 300_000):
            clean, perturbed = torch.rand(2, 5, size, generator=torch.Generator().manual_seed(0))
            together = psr(clean, perturbed, p)
            assert torch.equal(together, torch.cat([psr(clean[i : i + 1], perturbed[i : i + 1], p) for i in range(5)]))
            assert torch.equal(together.flip(0), psr(clean.flip(0), perturbed.flip(0), p))
    finally:
        torch.set_num_threads(threads)


def test_no_image_at_all():
    assert psr(torch.zeros(0, 3), torch.zeros(0, 3)).shape == (0,)


def test_mistakes():
    with pytest.raises(ValueError, match=r"one shape, got \(1, 2\) and \(1, 3\)"):
        psr(torch.zeros(1, 2), torch.zeros(1, 3))
    with pytest.raises(ValueError, match="p to be 1, 2 or infinity, got 0"):
        psr(torch.zeros(1, 2), torch.zeros(1, 2), 0)


def test_8_bits_are_the_next_level_below():
    levels = torch.arange(256) / 255
    assert torch.equal(truncate_8_bit(levels), levels)
    assert torch.equal(truncate_8_bit(levels[:-1] + 0.99 / 255), levels[:-1])
    x = torch.rand(10_000, generator=torch.Generator().manual_seed(0))
    below = 255 * (x - truncate_8_bit(x))
    assert below.min() > -2e-3
    assert 0.99 < below.max() < 1


def test_a_whole_level_that_rounding_has_missed_is_that_level():
    levels = torch.arange(200) / 255
    for missed in (torch.nextafter(levels + 8 / 255, torch.tensor(0.0)), (levels.double() + 8 / 255 - 1e-8).float()):
        assert torch.equal((255 * truncate_8_bit(missed)).round(), torch.arange(200) + 8.0)
