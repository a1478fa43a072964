"""The signal-to-noise ratio against closed forms."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_robust.analysis import decibel, snr


def test_the_ratio_of_powers_of_each_image():
    clean = torch.tensor([[[3.0, 4.0]], [[0.0, 2.0]]])
    noisy = torch.tensor([[[3.0, 4.5]], [[4.0, 2.0]]])
    torch.testing.assert_close(snr(clean, noisy), torch.tensor([100.0, 0.25]))


def test_decibels_are_of_the_average_and_no_average_of_decibels():
    ratios = torch.tensor([1.0, 1000.0])
    assert decibel(ratios) == pytest.approx(10 * math.log10(500.5))
    assert decibel(torch.tensor([0.01])) == pytest.approx(-20)


def test_equal_activations_are_huge_and_finite_and_no_signal_is_zero():
    same = torch.tensor([[3.0, 4.0]])
    assert float(snr(same, same)) == pytest.approx((5 / 1e-9) ** 2)
    assert float(snr(torch.zeros(1, 2), same)) == 0
    assert float(snr(torch.zeros(1, 2), torch.zeros(1, 2))) == 0
    assert decibel(torch.zeros(3)) == -math.inf


def test_a_linear_layer_under_known_noise():
    generator = torch.Generator().manual_seed(0)
    weight, _ = torch.linalg.qr(torch.randn(12, 12, generator=generator, dtype=torch.float64))
    x = torch.rand(5, 12, generator=generator, dtype=torch.float64)
    noise = 0.1 * torch.randn(5, 12, generator=generator, dtype=torch.float64)
    layer = torch.nn.Linear(12, 12, bias=False, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(3 * weight)  # a rotation keeps the ratio, whatever its gain
        ratios = snr(layer(x), layer(x + noise))
    torch.testing.assert_close(ratios, x.square().sum(1) / noise.square().sum(1), rtol=1e-6, atol=0)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(scale=st.floats(0.1, 1e3), change=st.floats(1e-3, 1e3))
def test_it_is_the_square_of_the_relative_change(scale, change):
    clean = scale * torch.ones(2, 3, 4, 4, dtype=torch.float64)
    assert snr(clean, clean * (1 + change)).tolist() == pytest.approx([change**-2] * 2, rel=1e-4)


def test_an_image_counts_alone():
    clean, noisy = torch.rand(2, 6, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    alone = torch.cat([snr(clean[i : i + 1], noisy[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(alone, snr(clean, noisy))


def test_half_precision_is_widened():
    clean = torch.tensor([[3.0, 4.0]], dtype=torch.float16)
    assert snr(clean, clean).isfinite().all()
    assert snr(clean, clean).dtype == torch.float32


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"one shape, got \(2, 3\) and \(2, 4\)"):
        snr(torch.zeros(2, 3), torch.zeros(2, 4))
