"""Spatter and the edges, distances and ranks that water needs."""

import numpy as np
import pytest
import torch
from corrupted_fields import constant, fields, levels, noise
from scipy import ndimage
from scipy.stats import norm

from lit_robust.corruptions import SEVERITIES, edges, filters, spatter
from lit_robust.corruptions.spatter import _kept, _relief

# What OpenCV 5.0 finds in `shapes` with the thresholds 50 and 150, and with 10 and 500.
LOW = """...........#....
.....###....##..
...##...##....#.
...#.....#....#.
..#......#....##
..#......#.....#
..#......#......
...#.....#......
...####.#..###..
.......#......#.
.......#......#.
.......#......#.
.......#......#.
........#######.
................
................"""
HIGH = """................
.....###........
...##...##......
...#.....#......
..#......#......
..#......#......
..#......#......
...#.....#......
...####.#..###..
.......#......#.
.......#......#.
.......#......#.
.......#......#.
........#######.
................
................"""

# The relief that OpenCV 5.0 gives `drops`, in percent of the largest; its rows 2 to 13 and columns 2 to 14.
RELIEF = """
  0   0  22  33  22  11  11   0   0   0   0   0   0
  0  22  44  66  49  27  27  55   0   0   0   0   0
  0  33  67 100  75  42  31  56   0   0   0   0   0
  0  34  68  96  71  37  20  34   0   0   0   0   0
  0  29  57  74  49  20   3  11   0   0   0   0   0
  0  18  35  41  23   6  11  23   0   0   0   0   0
  0   0  36  30  12   6  29   0   0   0   0   0   0
  0   0   0   0   0   0  57  89  96  58  25   0   0
  0   0   0   0   0   0  63  89  83  45  19   0   0
  0   0   0   0   0   0  45  58  45  20   7   0   0
  0   0   0   0   0   0  51  63  45  25  19  32  38
  0   0   0   0   0   0  61  76  63  57  57  70  76
"""


def drops():
    """A disk that is thicker towards the bottom, and a rectangle."""
    i, j = np.mgrid[:16, :16]
    disk = np.where((i - 5) ** 2 + (j - 6) ** 2 <= 14, 0.75 + 0.01 * i, 0)
    rectangle = np.where((abs(i - 11) <= 2) & (abs(j - 11) <= 3), 0.9, 0)
    return torch.tensor((disk + rectangle).clip(0, 0.95) + 1e-6 / 255)[None, None]


def shapes():
    """A disk, a rectangle and a slope in the corner, brighter towards the bottom."""
    i, j = np.mgrid[:16, :16]
    disk = np.where((i - 5) ** 2 + (j - 6) ** 2 <= 14, 200, 0)
    rectangle = np.where((abs(i - 11) <= 2) & (abs(j - 11) <= 3), 120, 0)
    slope = np.where(j - i > 9, 12 * (j - i - 9), 0)
    return torch.tensor((disk + rectangle + slope + 3 * i).clip(0, 255), dtype=torch.float32)[None, None]


def drawn(mask):
    return "\n".join("".join("#" if on else "." for on in row) for row in mask[0, 0].tolist())


def test_edges_are_those_of_opencv():
    assert drawn(edges.canny(shapes(), 50, 150)) == LOW
    assert drawn(edges.canny(shapes(), 10, 500)) == HIGH
    turned = edges.canny(shapes().flip(3), 50, 150)
    assert abs(int(turned.sum()) - LOW.count("#")) < 6


def test_edges_of_an_image_do_not_depend_on_the_others():
    both = torch.cat([shapes(), shapes().flip(2), torch.full((1, 1, 16, 16), 9.0)])
    for i in range(3):
        assert torch.equal(edges.canny(both, 10, 500)[i : i + 1], edges.canny(both[i : i + 1], 10, 500))
    assert not edges.canny(both[2:], 10, 500).any()


@pytest.mark.parametrize("most", [4, 20])
def test_distances_are_those_of_scipy(most):
    mask = torch.rand(4, 1, 24, 17, generator=torch.Generator().manual_seed(0)) < 0.02
    mask[3] = False
    found = edges.distance(mask, most)
    for i in range(3):
        expected = ndimage.distance_transform_edt(~mask[i, 0].numpy()).clip(max=most)
        np.testing.assert_allclose(found[i, 0], expected, atol=1e-5)
    assert (found[3] == most).all()


def test_equalised_levels_are_ranks():
    flat = torch.tensor([[10.0, 10.0, 30.0, 30.0, 30.0, 200.0], [7.0, 7.0, 7.0, 7.0, 7.0, 7.0]]).view(2, 1, 2, 3)
    first, second = edges.equalised(flat).flatten(1).tolist()
    assert first == [0, 0, 191, 191, 191, 255]  # 3 and 4 of the 4 that are not the lowest
    assert second == [7] * 6


def test_the_relief_of_water_is_that_of_opencv():
    found = (100 * _relief(drops(), 1.0)[0, 0, 2:14, 2:15]).round()
    assert found.long().tolist() == [[int(n) for n in row.split()] for row in RELIEF.strip().splitlines()]


def test_water_is_bright_inside_drops_and_the_brightest_is_1():
    liquid = torch.zeros(2, 1, 32, 32)
    liquid[0, :, 8:20, 5:25] = 0.8
    water = _relief(liquid, 1.0)
    assert water[0].max() == 1
    assert not water[0][liquid[0] == 0].any()
    assert not water[1].any()


def test_the_thickest_drops_wrap_around():
    liquid = torch.zeros(1, 1, 32, 32)
    liquid[:, :, 8:20, 5:25] = 0.8
    thick = liquid.clone()
    thick[:, :, 12, 12] = 256.5 / 255
    assert _relief(liquid, 1.0)[0, 0, 12, 12] > 0
    assert _relief(thick, 1.0)[0, 0, 12, 12] == 0


SETTINGS = (
    (0.62, 0.1, 0.7, 0.7, 0.5),
    (0.65, 0.1, 0.8, 0.7, 0.5),
    (0.65, 0.3, 1.0, 0.69, 0.5),
    (0.65, 0.1, 0.7, 0.69, 0.6),
    (0.65, 0.1, 0.5, 0.68, 0.6),
)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_drops_lie_where_smoothed_noise_exceeds_a_threshold(severity):
    mean, sigma, size, least, share = SETTINGS[severity - 1]
    x = fields(4)
    white = noise(4).normal("spatter", (1, 32, 32), draw=severity).double().numpy()
    liquid = mean + sigma * ndimage.gaussian_filter(white, (0, 0, size, size), mode="nearest", truncate=4.0)
    if severity <= 3:
        water = _relief(torch.tensor(np.where(liquid < least, 0, liquid)), 1.0).numpy()
        expected = x.numpy() + share * water * np.array([175, 238, 238]).reshape(3, 1, 1) / 255
    else:
        covered = (liquid > least).astype(float)
        mud = ndimage.gaussian_filter(covered, (0, 0, share, share), mode="nearest", truncate=4.0)
        mud = np.where(mud < 0.8, 0, mud)
        expected = x.numpy() * (1 - mud) + mud * np.array([63, 42, 20]).reshape(3, 1, 1) / 255
    np.testing.assert_allclose(levels(spatter(x, severity, noise(4))), 255 * expected.clip(0, 1), atol=0.51)


@pytest.mark.parametrize("severity", [1, 2, 3])
def test_water_adds_pale_turquoise(severity):
    added = levels(spatter(constant(50, 40), severity, noise(40))) - 50
    assert added.min() == 0
    assert added.max() == 119  # half of 238
    assert torch.equal(added[:, 1], added[:, 2])
    assert (added[:, 0] - added[:, 1] * 175 / 238).abs().max() < 1.1
    mean, sigma, size, least, _ = SETTINGS[severity - 1]
    wet = norm.sf((least - mean) / (sigma * _kept(size)))  # more than the threshold, of which the relief shows a part
    assert 0.5 * wet < float((added[:, 1] > 0).float().mean()) < 1.2 * wet
    assert (added.flatten(1) > 0).any(1).float().mean() > 0.9


@pytest.mark.parametrize("severity", [4, 5])
def test_mud_covers(severity):
    found = levels(spatter(constant(200, 40), severity, noise(40)))
    mud = torch.tensor([63.0, 42.0, 20.0]).view(3, 1, 1)
    changed = (found != 200).any(1)
    mean, sigma, size, least, _ = SETTINGS[severity - 1]
    wet = norm.sf((least - mean) / (sigma * _kept(size)))  # more than the threshold, of which the inside is opaque
    assert 0.15 * wet < float(changed.float().mean()) < 0.35 * wet
    opacity = (200 - found) / (200 - mud)
    inside = opacity.permute(0, 2, 3, 1)[changed]
    assert inside.min() > 0.79
    assert inside.max() < 1.01
    assert (inside.amax(1) - inside.amin(1)).max() < 0.02, "one opacity for all channels"


def test_what_a_gaussian_leaves_of_white_noise():
    white = noise(200).normal("white", (1, 32, 32))
    for sigma in (0.5, 1.0, 2.5):
        inside = filters.gaussian(white, sigma)[:, :, 10:-10, 10:-10]
        assert float(inside.std()) == pytest.approx(_kept(sigma), rel=0.03)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_drops_are_as_frequent_on_larger_images(severity):
    shares = []
    for side in (28, 32, 96):
        x = constant(120, 60 if side < 90 else 10, side=side)
        shares.append(float((spatter(x, severity, noise(len(x))) != x).any(1).float().mean()))
    assert shares[0] == pytest.approx(shares[1], rel=0.35)
    assert shares[2] == pytest.approx(shares[1], rel=0.8)


def test_spatter_of_grey_images_is_the_luma_of_its_colours():
    found = levels(spatter(constant(200, 40, channels=1), 5, noise(40)))
    assert float(found.min()) == round(0.299 * 63 + 0.587 * 42 + 0.114 * 20)
    assert levels(spatter(fields(2, 1), 3, noise(2))).max() <= 255
