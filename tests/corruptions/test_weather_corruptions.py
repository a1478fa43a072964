"""Snow, fog, frost and brightness."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from corrupted_fields import constant, fields, levels, noise
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from scipy import ndimage

from lit_robust.corruptions import SEVERITIES, brightness, filters, fog, frost, snow
from lit_robust.corruptions.plasma import plasma
from lit_robust.corruptions.stored import coarse_size


def last(x):
    return np.moveaxis(x.double().numpy(), 1, -1)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_brightness_adds_to_the_value_of_hsv(severity):
    x = fields()
    hsv = rgb_to_hsv(last(x))
    hsv[..., 2] = (hsv[..., 2] + (0.05, 0.10, 0.15, 0.20, 0.30)[severity - 1]).clip(0, 1)
    np.testing.assert_allclose(last(levels(brightness(x, severity, noise()))), 255 * hsv_to_rgb(hsv), atol=0.502)


def test_black_becomes_grey_and_a_grey_image_brighter():
    assert torch.equal(brightness(constant(0), 4, noise(4)), constant(51))
    assert torch.equal(brightness(constant(100, channels=1), 4, noise(4)), constant(151, channels=1))
    assert torch.equal(brightness(constant(250, channels=1), 4, noise(4)), constant(255, channels=1))


def refined(streams, i, side, decay):
    """Diamond-square, point by point."""
    grid, step, spread = {(0, 0): 0.0}, side, 1.0
    while step >= 2:
        half, cells = step // 2, side // step
        u = streams.uniform("p", (3, cells, cells), step=cells)[i].double() * 2 - 1
        diagonal = [(a, b) for a in (-half, half) for b in (-half, half)]
        straight = [(-half, 0), (half, 0), (0, -half), (0, half)]
        for kinds, offsets in (((0,), diagonal), ((1, 2), straight)):
            for kind, r, c in product(kinds, range(cells), range(cells)):
                row, column = r * step + half * (kind != 1), c * step + half * (kind != 2)
                mean = sum(grid[(row + a) % side, (column + b) % side] for a, b in offsets) / 4
                grid[row, column] = mean + spread * float(u[kind, r, c])
        step, spread = half, spread / decay**2
    surface = np.array([[grid[r, c] for c in range(side)] for r in range(side)])
    return (surface - surface.min()) / (surface.max() - surface.min())


@pytest.mark.parametrize("decay", [1.75, 3.0])
def test_plasma_is_diamond_square(decay):
    found = plasma(noise(2), "p", (16, 16), decay=decay)
    for i in range(2):
        np.testing.assert_allclose(found[i, 0], refined(noise(2), i, 16, decay), atol=1e-5)


def test_plasma_fills_0_to_1_is_cut_from_a_power_of_2_and_smoother_with_more_decay():
    whole = plasma(noise(3), "p", (32, 32), decay=2.0)
    assert whole.amin((1, 2, 3)).tolist() == [0, 0, 0]
    assert whole.amax((1, 2, 3)).tolist() == [1, 1, 1]
    assert torch.equal(plasma(noise(3), "p", (28, 20), decay=2.0), whole[:, :, :28, :20])
    rough = [plasma(noise(20), "p", (32, 32), decay=d).diff(dim=3).abs().mean() for d in (1.2, 1.75, 2.5, 3.0)]
    assert rough == sorted(rough, reverse=True)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_fog_is_a_surface_that_keeps_the_maximum_in_its_range(severity):
    amount, decay = ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))[severity - 1]
    x = fields(3) * 0.8
    highest = (levels(x) / 255).amax((1, 2, 3), keepdim=True)
    surface = plasma(noise(3), "fog", (32, 32), decay=decay, draw=severity)
    expected = (levels(x) / 255 + amount * surface) * highest / (highest + amount)
    assert (fog(x, severity, noise(3)) - expected).abs().max() < 0.51 / 255
    assert torch.equal(fog(constant(0), severity, noise(4)), constant(0))
    both = fog(constant(90), severity, noise(4))
    assert torch.equal(both[:, 0], both[:, 2]), "fog is grey"


@pytest.mark.parametrize("severity", SEVERITIES)
def test_snow_lies_on_a_paler_image_and_is_there_twice(severity):
    kept = (0.95, 0.9, 0.9, 0.85, 0.8)[severity - 1]
    x = constant(60, 20)
    found = snow(x, severity, noise(20))
    assert torch.equal(found, found.flip(2, 3))
    pale = kept * 60 / 255 + (1 - kept) * (1.5 * 60 / 255 + 0.5)
    assert float(found.min()) == pytest.approx(pale, abs=2 / 255)
    covered = (found > pale + 0.02).float().mean()
    assert 0.03 < covered < 1.0
    assert len({image.sum().item() for image in found}) > 15


@pytest.mark.parametrize("severity", SEVERITIES)
def test_snow_is_the_largest_of_magnified_noise_drawn_out(severity):
    mean, sigma, size, least, radius, length, kept = (
        (0.1, 0.2, 1.0, 0.6, 8, 3.0, 0.95),
        (0.1, 0.2, 1.0, 0.5, 10, 4.0, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4.0, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6.0, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12.0, 0.8),
    )[severity - 1]
    x, streams = fields(3), noise(3)
    white = mean + sigma * streams.normal("snow", (1, 32, 32), draw=severity).double().numpy()
    part = math.ceil(32 / size)
    top = (32 - part) // 2
    grown = ndimage.zoom(white[:, :, top : top + part, top : top + part], (1, 1, size, size), order=1)
    trim = (grown.shape[2] - 32) // 2
    grown = grown[:, :, trim : trim + 32, trim : trim + 32]
    layer = torch.tensor(np.where(grown < least, 0, grown.clip(0, 1)))
    degrees = 90 * streams.uniform("snow/direction", (), draw=severity) - 135
    flakes = filters.streak(layer, degrees, radius=radius, sigma=length)
    luma = (x * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    expected = kept * x + (1 - kept) * torch.maximum(x, 1.5 * luma + 0.5) + flakes + flakes.rot90(2, (2, 3))
    np.testing.assert_allclose(levels(snow(x, severity, streams)), 255 * expected.clamp(0, 1), atol=1.51)


def test_snow_leaves_a_bright_colour_and_makes_a_dark_one_paler():
    red = constant(0, 8)
    red[:, 0] = 100 / 255
    found = snow(red, 1, noise(8)).amin((2, 3))
    luma = 0.299 * 100 / 255
    expected = [0.95 * c + 0.05 * max(c, 1.5 * luma + 0.5) for c in (100 / 255, 0.0, 0.0)]
    np.testing.assert_allclose(found, np.tile(expected, (8, 1)), atol=1.1 / 255)


def test_snow_is_drawn_out_downwards_more_than_sideways():
    found = snow(constant(0, 100), 4, noise(100))[:, :1]
    assert found.diff(dim=2).abs().mean() < 0.9 * found.diff(dim=3).abs().mean()


@pytest.mark.parametrize("severity", SEVERITIES)
def test_frost_adds_bluish_ice_to_a_darker_image(severity):
    image, ice = ((1.0, 0.2), (1.0, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))[severity - 1]
    x = constant(100, 50)
    added = frost(x, severity, noise(50)) - image * 100 / 255
    assert added.min() > -0.5 / 255
    assert added.max() <= ice + 0.51 / 255
    red, green, blue = (added / ice).mean((0, 2, 3)).tolist()
    assert 0.25 < red < green < blue < 0.6
    assert (added / ice).std() > 0.12, "ice has a structure"
    grey = frost(constant(100, 50, channels=1), severity, noise(50)) - image * 100 / 255
    assert float(grey.mean() / ice) == pytest.approx(0.299 * red + 0.587 * green + 0.114 * blue, abs=0.01)


def test_flakes_and_crystals_grow_with_the_image():
    assert coarse_size(torch.zeros(1, 3, 32, 32)) == (32, 32)
    assert coarse_size(torch.zeros(1, 3, 28, 28)) == (32, 32)
    assert coarse_size(torch.zeros(1, 3, 96, 192)) == (32, 64)
    for corruption in (snow, frost):
        small, large = (corruption(constant(0, 20, side=side), 3, noise(20)) for side in (32, 96))
        shrunk = torch.nn.functional.avg_pool2d(large, 3)
        assert float(shrunk.mean()) == pytest.approx(float(small.mean()), rel=0.25)
        assert float(shrunk.std()) == pytest.approx(float(small.std()), rel=0.4)
