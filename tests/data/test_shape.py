import numpy as np
import pytest
import torch
from PIL import Image

from lit_robust.data.shape import conform
from lit_robust.errors import UserError


def random(*shape):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def pillow(x):
    return Image.fromarray(x.permute(1, 2, 0).numpy())


def test_what_fits_is_untouched():
    x = random(5, 3, 8, 8)
    assert torch.equal(conform(x), x)
    assert torch.equal(conform(x, size=8, channels=3), x)


@pytest.mark.parametrize("size", [12, 5])
def test_resizing_is_that_of_pillow_to_one_grey_level(size):
    x = random(300, 3, 8, 8)  # more than are resized at a time
    ours = conform(x, size=size)
    theirs = [np.array(pillow(image).resize((size, size), Image.Resampling.BILINEAR)) for image in x]
    assert ours.shape == (300, 3, size, size)
    difference = ours.permute(0, 2, 3, 1).int() - torch.from_numpy(np.stack(theirs)).int()
    assert difference.abs().max() <= 1


def test_an_oblong_image_is_scaled_by_its_shorter_side_and_cropped_in_the_centre():
    x = torch.zeros(1, 1, 4, 12, dtype=torch.uint8)
    x[..., 4:8] = 200
    assert torch.equal(conform(x, size=4), torch.full((1, 1, 4, 4), 200, dtype=torch.uint8))
    assert conform(random(1, 1, 7, 5), size=16).shape == (1, 1, 16, 16)


@pytest.mark.parametrize(("size", "top"), [(12, 2), (13, 2), (8, 0)])
def test_padding_is_symmetric_with_the_odd_row_below(size, top):
    x = random(2, 3, 8, 8).clamp(min=1)
    padded = conform(x, size=size, resize="pad")
    assert padded.shape == (2, 3, size, size)
    assert torch.equal(padded[:, :, top : top + 8, top : top + 8], x)
    assert int(padded.count_nonzero()) == x.numel()


def test_padding_cannot_shrink():
    with pytest.raises(UserError, match="8 x 9 pixels to size 8"):
        conform(random(1, 1, 8, 9), size=8, resize="pad")


def test_grey_becomes_colour_by_repetition():
    x = random(3, 1, 6, 6)
    colour = conform(x, size=9, channels=3)
    assert torch.equal(colour, conform(x, size=9).expand(3, 3, 9, 9))


def test_colour_becomes_grey_as_in_pillow():
    x = random(300, 3, 16, 16)
    theirs = torch.from_numpy(np.stack([np.array(pillow(image).convert("L")) for image in x]))
    assert torch.equal(conform(x, channels=1)[:, 0], theirs)


def test_grey_colour_keeps_its_grey():
    grey = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(conform(conform(grey, channels=3), channels=1), grey)


def test_other_channels_are_refused():
    with pytest.raises(UserError, match="from 4 to 3"):
        conform(random(1, 4, 8, 8), channels=3)
