"""Contrast, saturation, pixelation, JPEG and the elastic transformation."""

from io import BytesIO

import numpy as np
import pytest
import torch
from corrupted_fields import constant, fields, levels, noise
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from PIL import Image
from scipy import ndimage

from lit_robust.corruptions import SEVERITIES, contrast, elastic_transform, jpeg_compression, pixelate, saturate


def last(x):
    return np.moveaxis(x.double().numpy(), 1, -1)


def pictures(x):
    """Images as Pillow has them."""
    arrays = last(levels(x)).astype(np.uint8)
    return [Image.fromarray(image[..., 0] if x.shape[1] == 1 else image) for image in arrays]


def as_levels(images):
    arrays = np.stack([np.asarray(image) for image in images])
    return arrays[:, None] if arrays.ndim == 3 else np.moveaxis(arrays, -1, 1)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_contrast_shrinks_each_channel_to_its_mean(severity):
    share = (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1]
    x = fields().double()
    mean = x.mean((2, 3), keepdim=True)
    found = contrast(x, severity, noise())
    assert (found - (mean + share * (x - mean))).abs().max() < 0.501 / 255
    assert torch.equal(contrast(constant(99), severity, noise(4)), constant(99))


@pytest.mark.parametrize("severity", SEVERITIES)
def test_saturate_changes_the_saturation_of_hsv(severity):
    factor, more = ((0.3, 0.0), (0.1, 0.0), (1.5, 0.0), (2.0, 0.1), (2.5, 0.2))[severity - 1]
    x = fields()
    x[:, :, :3] = torch.tensor([0.0, 90 / 255, 1.0]).view(1, 1, 3, 1)  # black, grey and white count as red
    hsv = rgb_to_hsv(last(x))
    hsv[..., 1] = (hsv[..., 1] * factor + more).clip(0, 1)
    np.testing.assert_allclose(last(levels(saturate(x, severity, noise()))), 255 * hsv_to_rgb(hsv), atol=0.502)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_an_image_of_one_channel_has_no_saturation(severity):
    x = fields(channels=1)
    assert torch.equal(saturate(x, severity, noise()), x)


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 20, 36), (3, 33, 100)])
def test_pixelate_is_pillows_box_filter_down_and_up(severity, shape):
    share = (0.95, 0.9, 0.85, 0.75, 0.65)[severity - 1]
    x = fields(3, *shape)
    height, width = shape[1:]
    small = [p.resize((int(width * share), int(height * share)), Image.Resampling.BOX) for p in pictures(x)]
    expected = as_levels([p.resize((width, height), Image.Resampling.BOX) for p in small])
    assert np.array_equal(levels(pixelate(x, severity, noise(3))), expected)
    assert torch.equal(pixelate(constant(99), severity, noise(4)), constant(99))


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_has_the_quality_of_its_severity(severity, channels):
    x, files = fields(3, channels), []
    for picture in pictures(x):
        file = BytesIO()
        picture.save(file, "JPEG", quality=(80, 65, 58, 50, 40)[severity - 1])
        files.append(Image.open(file))
    assert np.array_equal(levels(jpeg_compression(x, severity, noise(3))), as_levels(files))


def test_jpeg_halves_the_resolution_of_colours():
    x = constant(128, 1)
    x[:, 0, :, ::2] = 1.0  # red stripes of one pixel
    found = jpeg_compression(x, 1, noise(1))[0, :, :, 8:24]
    redness = (found[0] - found[2]).mean(0)
    assert redness.std() < 0.1 * (x[0, 0, 0] - x[0, 2, 0]).std()


SETTINGS = ((0.0, 0.0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.10, 0.04, 0.05), (0.10, 0.03, 0.03))


@pytest.mark.parametrize("severity", SEVERITIES)
def test_elastic_transform_is_an_affine_map_and_a_smooth_displacement(severity):
    amplitude, sigma, corner = (32 * part for part in SETTINGS[severity - 1])
    x, streams = fields(4), noise(4)
    corners = streams.uniform("elastic_transform/corners", (3, 2), draw=severity).double().numpy()
    pull = streams.uniform("elastic_transform/pull", (2, 32, 32), draw=severity).double().numpy()
    rows, columns = np.mgrid[:32, :32]
    before = np.array([[26.0, 26.0], [26.0, 6.0], [6.0, 6.0]])  # column, row
    for i in range(4):
        after = before + corner * (2 * corners[i] - 1)
        back = np.linalg.solve(np.column_stack([after, np.ones(3)]), before)
        column, row = (columns * back[0, k] + rows * back[1, k] + back[2, k] for k in (0, 1))
        down, right = (
            amplitude * ndimage.gaussian_filter(2 * field - 1, sigma, mode="reflect", truncate=3) if amplitude else 0
            for field in pull[i]
        )
        for channel in range(3):
            image = x[i, channel].double().numpy()
            mapped = ndimage.map_coordinates(image, [row, column], order=1, mode="mirror")
            expected = ndimage.map_coordinates(mapped, [rows + down, columns + right], order=1, mode="reflect")
            found = levels(elastic_transform(x, severity, streams))[i, channel]
            np.testing.assert_allclose(found, 255 * expected, atol=0.52)


def test_elastic_transform_keeps_a_constant_image_and_scales_with_it():
    for severity in SEVERITIES:
        assert torch.equal(elastic_transform(constant(99), severity, noise(4)), constant(99))
    ramp = (torch.arange(96) / 255).expand(60, 1, 96, 96)
    moved = [
        (elastic_transform(x, 3, noise(60)) - x)[:, :, margin:-margin, margin:-margin].std() * 255
        for x, margin in ((ramp, 24), (ramp[:, :, :32, :32], 8))
    ]
    assert float(moved[0] / moved[1]) == pytest.approx(3, rel=0.15)
