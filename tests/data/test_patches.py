"""Random patches."""

import pytest
import torch

from lit_robust import sampling
from lit_robust.data.patches import centred, random_patches
from lit_robust.errors import UserError


def noise(n, **options):
    return sampling.Noise(sampling.keys(torch.arange(n), **options))


def numbered(n, channels, height, width):
    """Images whose pixels say where they are."""
    return torch.arange(n * channels * height * width, dtype=torch.float64).view(n, channels, height, width)


@pytest.mark.parametrize(("patch", "stride", "count"), [(4, 2, 1), (3, 1, 5), (4, 4, 3), (8, 3, 2)])
def test_a_patch_is_a_piece_of_its_image_on_the_grid(patch, stride, count):
    x = numbered(6, 2, 8, 9)
    patches = random_patches(x, noise(6), patch=patch, stride=stride, count=count)
    assert patches.shape == (6 * count, 2, patch, patch)
    for number, each in enumerate(patches):
        image, first = number // count, int(each[0, 0, 0]) % (2 * 72)
        row, column = divmod(first, 9)
        assert row % stride == column % stride == 0
        assert torch.equal(each, x[image, :, row : row + patch, column : column + patch])


def test_all_places_are_equally_likely():
    x = numbered(1, 1, 6, 13).expand(10000, -1, -1, -1)
    first = random_patches(x, noise(10000), patch=4, stride=2)[:, 0, 0, 0]
    places, counts = first.unique(return_counts=True)
    assert places.tolist() == [13 * row + column for row in (0, 2) for column in (0, 2, 4, 6, 8)]
    assert (counts - 1000).abs().max() < 4.5 * 1000**0.5


def test_places_belong_to_the_image_and_change_with_the_epoch():
    x = numbered(8, 1, 9, 9)
    together = random_patches(x, noise(8), patch=3)
    some = torch.tensor([6, 1])
    key = sampling.keys(torch.arange(8))[some]
    assert torch.equal(random_patches(x[some], sampling.Noise(key), patch=3), together[some])
    assert not torch.equal(random_patches(x, noise(8, epoch=1), patch=3), together)


def test_a_centred_patch_has_mean_zero_over_pixels_and_channels():
    patches = torch.rand(5, 3, 4, 4, dtype=torch.float64)
    out = centred(patches)
    assert out.mean((1, 2, 3)).abs().max() < 1e-15
    difference = (patches - out).flatten(1)
    assert (difference.amax(1) - difference.amin(1)).max() < 1e-15


@pytest.mark.parametrize("options", [{"patch": 9}, {"patch": 0}, {"patch": 4, "count": 0}, {"patch": 4, "stride": 0}])
def test_impossible_patches_are_refused(options):
    with pytest.raises(UserError, match="expected patches that fit into images of 8 x 10 pixels"):
        random_patches(torch.rand(2, 1, 8, 10), noise(2), **options)
