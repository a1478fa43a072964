"""What holds for every corruption: range, levels, shapes, and a result that depends on the sample and nothing else."""

import pytest
import torch
from corrupted_fields import constant, distortion, fields, levels, noise

from lit_robust.corruptions import CORRUPTIONS, SEVERITIES, gaussian_noise, stored
from lit_robust.corruptions.plasma import plasma
from lit_robust.errors import UserError
from lit_robust.sampling import Noise

FIXED = {"brightness", "defocus_blur", "gaussian_blur", "zoom_blur", "contrast", "pixelate", "saturate"}
FIXED |= {"jpeg_compression"}
GROWING = ["gaussian_noise", "shot_noise", "speckle_noise", "impulse_noise", "fog", "brightness", "defocus_blur"]
GROWING += ["gaussian_blur", "zoom_blur", "contrast", "pixelate", "jpeg_compression", "snow"]
every = pytest.mark.parametrize("name", CORRUPTIONS)


@every
def test_256_levels_in_0_to_1_in_the_shape_of_the_images(name):
    x = fields()
    before = x.clone()
    for severity in SEVERITIES:
        found = CORRUPTIONS[name](x, severity, noise())
        assert found.shape == x.shape
        assert found.dtype == torch.float32
        assert found.min() >= 0
        assert found.max() <= 1
        assert torch.equal(levels(found) / 255, found)
        assert not torch.equal(found, x)
    assert torch.equal(x, before)


@every
@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 32, 32), (3, 16, 16), (3, 20, 36), (3, 70, 48), (1, 3, 5)])
def test_other_sizes_and_grey_images(name, shape):
    x = fields(3, *shape)
    for severity in SEVERITIES:
        found = CORRUPTIONS[name](x, severity, noise(3))
        assert found.shape == x.shape
        assert torch.equal(levels(found) / 255, found)
    if name != "saturate" and min(shape) > 8:
        assert distortion(x, found) > 0.05 * distortion(x, torch.zeros_like(x)), "severity 5 is seen at every size"


@every
def test_a_sample_depends_on_neither_its_batch_nor_the_order(name):
    x, n = fields(8), 8
    turned = torch.arange(n).flip(0)
    for severity in (2, 5):
        whole = CORRUPTIONS[name](x, severity, noise(n))
        single = [CORRUPTIONS[name](x[i : i + 1], severity, noise(n).rows(torch.tensor([i]))) for i in range(n)]
        assert torch.equal(torch.cat(single), whole)
        assert torch.equal(CORRUPTIONS[name](x[turned], severity, noise(n).rows(turned)), whole.flip(0))


@every
def test_it_depends_on_seed_index_and_severity(name):
    x = constant(100, 2) if name in FIXED else fields(1).repeat(2, 1, 1, 1)
    first, second = CORRUPTIONS[name](x, 3, noise(2))
    assert torch.equal(CORRUPTIONS[name](x, 3, noise(2))[0], first)
    assert torch.equal(first, second) == (name in FIXED)
    other_seed = CORRUPTIONS[name](x, 3, noise(2, seed=1))[0]
    assert torch.equal(first, other_seed) == (name in FIXED)


@every
def test_corruptions_and_severities_have_noise_of_their_own(name, monkeypatch):
    drawn = []

    def spy(self, purpose, shape, step, draw):
        drawn.append((purpose, draw))
        return bits(self, purpose, shape, step, draw)

    bits = Noise._bits
    monkeypatch.setattr(Noise, "_bits", spy)
    for severity in SEVERITIES:
        drawn.clear()
        CORRUPTIONS[name](fields(1), severity, noise(1))
        assert all(purpose.split("/")[0] == name and draw == severity for purpose, draw in drawn)
    assert bool(drawn) == (name not in FIXED)


@pytest.mark.parametrize("name", GROWING)
def test_distortion_grows_with_severity(name):
    # Fractals have edges of all sizes and places, as photographs do.
    x = torch.cat([plasma(noise(24, seed=9), "image", (32, 32), decay=1.45, draw=channel) for channel in range(3)], 1)
    x = levels(x) / 255
    found = [distortion(x, CORRUPTIONS[name](x, severity, noise(24))) for severity in SEVERITIES]
    assert found == sorted(found)
    assert found[-1] > 1.2 * found[0]


def test_motion_blur_grows_but_for_severities_3_and_4_which_have_one_deviation():
    x = fields(100)
    one, two, three, four, five = (
        distortion(x, CORRUPTIONS["motion_blur"](x, severity, noise(100))) for severity in SEVERITIES
    )
    assert one < two < three < five
    assert four == pytest.approx(three, rel=0.05)


@every
def test_float64_images_have_the_same_levels(name):
    x = fields(2)
    wide = CORRUPTIONS[name](levels(x).double() / 255, 4, noise(2))
    assert wide.dtype == torch.float64
    assert torch.equal((wide * 255).round(), levels(CORRUPTIONS[name](x, 4, noise(2))).double())
    assert torch.equal(wide, (wide * 255).round() / 255)


@every
def test_many_images_are_done_a_few_at_a_time(name, monkeypatch):
    x = fields(5)
    whole = CORRUPTIONS[name](x, 3, noise(5))
    monkeypatch.setattr(stored, "_CHUNK", 2 * x[0].numel() + 1)
    assert torch.equal(CORRUPTIONS[name](x, 3, noise(5)), whole)


def test_images_between_the_levels_are_rounded_first():
    x = fields(2)
    for name in ("gaussian_noise", "gaussian_blur", "contrast", "elastic_transform"):
        expected = CORRUPTIONS[name](x, 3, noise(2))
        assert torch.equal(CORRUPTIONS[name](x + 0.4 / 255, 3, noise(2)), expected)


def test_no_images_and_no_graph():
    assert gaussian_noise(torch.zeros(0, 3, 32, 32), 1, noise(0)).shape == (0, 3, 32, 32)
    assert not gaussian_noise(fields(1).requires_grad_(), 1, noise(1)).requires_grad


@pytest.mark.parametrize(
    ("x", "severity", "samples", "message"),
    [
        (torch.zeros(2, 3, 8, 8), 0, 2, "severity from 1 to 5, got 0"),
        (torch.zeros(2, 3, 8, 8), 6, 2, "severity from 1 to 5, got 6"),
        (torch.zeros(2, 4, 8, 8), 1, 2, "1 or 3, H, W"),
        (torch.zeros(3, 8, 8), 1, 3, "1 or 3, H, W"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), 1, 2, "torch.uint8"),
        (torch.zeros(2, 3, 8, 8), 1, 3, "keyed on 2 samples, got 3"),
    ],
)
def test_what_cannot_be_corrupted_is_refused(x, severity, samples, message):
    with pytest.raises(UserError, match=message):
        gaussian_noise(x, severity, noise(samples))
