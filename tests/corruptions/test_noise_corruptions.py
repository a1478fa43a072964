"""The four noises against their closed forms."""

import numpy as np
import pytest
import torch
from corrupted_fields import constant, fields, levels, noise
from scipy.stats import poisson

from lit_robust.corruptions import SEVERITIES, gaussian_noise, impulse_noise, shot_noise, speckle_noise
from lit_robust.corruptions.noise import _poisson

PHOTONS = (500, 250, 100, 75, 50)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_gaussian_noise_has_one_deviation_at_every_level(severity):
    sigma = (0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1]
    for value in (115, 140):
        added = gaussian_noise(constant(value), severity, noise(4)) - value / 255
        assert float(added.std()) == pytest.approx(sigma, rel=0.03)
        assert float(added.mean()) == pytest.approx(0, abs=0.003)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_speckle_noise_has_a_deviation_in_proportion_to_the_level(severity):
    sigma = (0.06, 0.1, 0.12, 0.16, 0.2)[severity - 1]
    for value in (60, 120):
        added = speckle_noise(constant(value), severity, noise(4)) - value / 255
        assert float(added.std()) == pytest.approx(sigma * value / 255, rel=0.03)
        assert float(added.mean()) == pytest.approx(0, abs=0.003)
    assert torch.equal(speckle_noise(constant(0), severity, noise(4)), constant(0))


@pytest.mark.parametrize("severity", SEVERITIES)
def test_shot_noise_has_the_mean_and_variance_of_poisson_counts(severity):
    photons = PHOTONS[severity - 1]
    for value in (20, 130):
        found = shot_noise(constant(value), severity, noise(4))
        rounding = 1 / (12 * 255**2)
        assert float(found.mean()) == pytest.approx(value / 255, rel=0.02)
        assert float(found.var()) == pytest.approx(value / 255 / photons + rounding, rel=0.08)
    assert torch.equal(shot_noise(constant(0), severity, noise(4)), constant(0))


@pytest.mark.parametrize("severity", SEVERITIES)
def test_shot_noise_is_a_count_of_photons(severity):
    photons = PHOTONS[severity - 1]
    found = levels(shot_noise(fields(4), severity, noise(4)))
    counts = (torch.arange(photons + 1) * 255 / photons).round()
    assert torch.isin(found, counts).all()


@pytest.mark.parametrize("photons", PHOTONS)
def test_counts_are_the_quantiles_of_the_poisson_distribution(photons):
    u = torch.rand(1, 256, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(photons))
    u[..., :2] = torch.tensor([1e-9, 1 - 1e-9], dtype=torch.float64)
    grey = torch.arange(256.0)[None, :, None].expand_as(u)
    expected = poisson.ppf(u.numpy(), grey.numpy() / 255 * photons)
    assert np.array_equal(_poisson(grey, u, photons).numpy(), expected)


@pytest.mark.parametrize("number", [0.0, 2.0**-53, 1 - 2.0**-53])
def test_the_smallest_and_the_largest_number_give_a_count_too(number):
    counts = _poisson(torch.arange(256.0)[None], torch.full((1, 256), number, dtype=torch.float64), 50)
    assert counts[0, 0] == 0
    assert counts.min() >= 0
    assert counts.max() < 300


@pytest.mark.parametrize("severity", SEVERITIES)
def test_impulse_noise_sets_a_share_of_single_entries_to_0_or_1(severity):
    share = (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]
    x = constant(100, 40)
    found = impulse_noise(x, severity, noise(40))
    hit = found != x
    assert float((found == 0).float().mean()) == pytest.approx(share / 2, rel=0.1)
    assert float((found == 1).float().mean()) == pytest.approx(share / 2, rel=0.1)
    assert torch.isin(found[hit], torch.tensor([0.0, 1.0])).all()
    whole_pixels = float(hit.all(1).float().mean())
    assert whole_pixels < 3 * share**3 + 1e-4, "channels are hit each by itself"
