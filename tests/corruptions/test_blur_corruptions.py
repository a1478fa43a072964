"""Blurs against SciPy, and against loops that say what they do."""

import math

import numpy as np
import pytest
import torch
from corrupted_fields import constant, fields, levels, noise
from scipy import ndimage

from lit_robust.corruptions import (
    CORRUPTIONS,
    SEVERITIES,
    defocus_blur,
    filters,
    gaussian_blur,
    glass_blur,
    motion_blur,
    zoom_blur,
)

BLURS = ["defocus_blur", "gaussian_blur", "motion_blur", "zoom_blur", "glass_blur"]


def same(found, expected):
    """Equal to the nearest level, but where rounding is nearly a tie."""
    np.testing.assert_allclose(levels(found).numpy(), expected.clip(0, 1) * 255, atol=0.502)


@pytest.mark.parametrize("name", BLURS)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_a_constant_image_stays_what_it_is(name, severity):
    for value in (0, 77, 255):
        assert torch.equal(CORRUPTIONS[name](constant(value), severity, noise(4)), constant(value))


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("side", [32, 64])
def test_gaussian_blur_is_that_of_scipy(severity, side):
    x = fields(2, height=side, width=side)
    sigma = (0.4, 0.6, 0.7, 0.8, 1.0)[severity - 1] * side / 32
    expected = ndimage.gaussian_filter(x.double().numpy(), (0, 0, sigma, sigma), mode="nearest", truncate=4.0)
    same(gaussian_blur(x, severity, noise(2)), expected)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_defocus_blur_is_a_smoothed_disk(severity):
    radius, sigma = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))[severity - 1]
    at = np.arange(-8, 9)
    disk = (at[:, None] ** 2 + at**2 <= radius**2).astype(float)
    bell = np.exp(-0.5 * (np.arange(-1, 2) / sigma) ** 2)
    kernel = ndimage.correlate(disk / disk.sum(), np.outer(bell, bell) / bell.sum() ** 2)
    x = fields(2)
    expected = ndimage.correlate(x.double().numpy(), kernel[None, None], mode="mirror")
    same(defocus_blur(x, severity, noise(2)), expected)


@pytest.mark.parametrize(("radius", "inside"), [(0.3, 1), (0.5, 1), (1.0, 5), (1.5, 9), (2.0, 13), (3.0, 29)])
def test_a_disk_has_the_sum_1_and_the_pixels_within_its_radius(radius, inside):
    sharp = filters.disk(radius, 0.01)
    assert float(sharp.sum()) == pytest.approx(1)
    assert sharp[sharp > 1e-6].tolist() == pytest.approx([1 / inside] * inside)
    smooth = filters.disk(radius, 0.6)
    assert float(smooth.sum()) == pytest.approx(1)
    assert torch.allclose(smooth, smooth.T)
    assert torch.allclose(smooth, smooth.flip(0, 1))


@pytest.mark.parametrize("border", ["edge", "mirror", "half_mirror"])
@pytest.mark.parametrize("count", [1, 3, 11])
def test_borders_are_those_of_numpy(border, count):
    mode = {"edge": "edge", "mirror": "reflect", "half_mirror": "symmetric"}[border]
    x = torch.arange(2 * 4 * 5.0).view(1, 2, 4, 5)
    for dim in (2, 3):
        padding = [(count, count) if d == dim else (0, 0) for d in range(4)]
        assert np.array_equal(filters.extend(x, count, dim, border).numpy(), np.pad(x.numpy(), padding, mode))


def drawn_out(image, degrees, radius, sigma):
    """Half a Gaussian along a ray, of one image (C, 32, 32)."""
    weights = np.exp(-0.5 * (np.arange(2 * radius + 1) / sigma) ** 2)
    total = np.zeros(image.shape)
    for k, weight in enumerate(weights / weights.sum()):
        down, right = (round(k * f(math.radians(degrees))) for f in (math.sin, math.cos))
        rows, columns = ((np.arange(32) + shift).clip(0, 31) for shift in (down, right))
        total += weight * image[:, rows][:, :, columns]
    return total


@pytest.mark.parametrize("degrees", [-135.0, -62.0, -44.0, 0.0, 17.0, 45.0, 90.0])
def test_a_streak_is_half_a_gaussian_along_a_ray(degrees):
    x = fields(1).double()
    found = filters.streak(x, torch.tensor([degrees], dtype=torch.float64), radius=5, sigma=2.0)
    np.testing.assert_allclose(found[0], drawn_out(x[0].numpy(), degrees, 5, 2.0), atol=1e-5)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_motion_blur_is_a_streak_within_45_degrees_of_the_horizontal(severity):
    radius, sigma = ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5))[severity - 1]
    x = fields(3)
    degrees = 90 * noise(3).uniform("motion_blur", (), draw=severity) - 45
    expected = [drawn_out(x[i].double().numpy(), float(degrees[i]), radius, sigma) for i in range(3)]
    same(motion_blur(x, severity, noise(3)), np.stack(expected))

    point = torch.zeros(60, 1, 32, 32)
    point[:, :, 16, 24] = 1.0
    _, row, column = motion_blur(point, severity, noise(60))[:, 0].nonzero().T
    assert ((row - 16).abs() <= 24 - column).all(), "light comes from the right"
    assert (row < 16).any()
    assert (row > 16).any()


@pytest.mark.parametrize("severity", SEVERITIES)
def test_zoom_blur_is_the_mean_of_the_magnified_centres_of_scipy(severity):
    x = fields(2)
    factors = np.arange(1, (1.06, 1.11, 1.16, 1.21, 1.26)[severity - 1], 0.01)
    total = x.double().numpy()
    for factor in factors:
        part = math.ceil(32 / factor)
        top = (32 - part) // 2
        centre = x.double().numpy()[:, :, top : top + part, top : top + part]
        grown = ndimage.zoom(centre, (1, 1, factor, factor), order=1)
        trim = (grown.shape[2] - 32) // 2
        total = total + grown[:, :, trim : trim + 32, trim : trim + 32]
    same(zoom_blur(x, severity, noise(2)), total / (len(factors) + 1))


@pytest.mark.parametrize("severity", SEVERITIES)
def test_glass_blur_overwrites_each_pixel_by_one_above_or_to_the_left(severity):
    sigma, times = ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))[severity - 1]

    def smooth(images):
        return ndimage.gaussian_filter(images, (0, 0, sigma, sigma), mode="nearest", truncate=4.0)

    x = fields(2)
    expected = (smooth(x.double().numpy()) * 255).round() / 255
    for step in range(times):
        u = noise(2).uniform("glass_blur", (2, 32, 32), step=step, draw=severity).numpy()
        for i in range(2):
            for row in range(31, 1, -1):
                for column in range(31, 1, -1):
                    down, right = (int(u[i, k, row, column] * 2) - 1 for k in (0, 1))
                    expected[i, :, row, column] = expected[i, :, row + down, column + right]
    error = abs(levels(glass_blur(x, severity, noise(2))).numpy() - smooth(expected) * 255)
    assert error.max() < 1.6, "a level that is nearly a tie between the filters"
    assert (error > 0.51).mean() < 1e-3


def test_glass_blur_of_a_larger_image_reaches_further_in_both_directions():
    x = torch.zeros(1, 1, 128, 128)
    x[:, :, 64, 64] = 1.0
    found = [glass_blur(x, 1, noise(1, seed=seed))[0, 0].nonzero() for seed in range(30)]
    offsets = torch.cat(found) - 64
    assert offsets.abs().max() > 1
    assert offsets.min() < 0 < offsets.max()
    assert offsets.abs().max() <= 4 + 1
