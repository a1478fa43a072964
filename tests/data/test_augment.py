import pytest
import torch

from lit_robust.data import Augment
from lit_robust.errors import UserError
from lit_robust.sampling import Noise, keys


def naive(x, key, pad, flip):
    out = torch.empty_like(x)
    _, height, width = x.shape[1:]
    for n in range(len(x)):
        top, left, mirror = Noise(key[n : n + 1]).uniform("augment", (3,))[0].tolist()
        padded = torch.zeros(x.shape[1], height + 2 * pad, width + 2 * pad, dtype=x.dtype)
        padded[:, pad : pad + height, pad : pad + width] = x[n]
        top, left = int(top * (2 * pad + 1)), int(left * (2 * pad + 1))
        crop = padded[:, top : top + height, left : left + width]
        out[n] = torch.flip(crop, (2,)) if flip and mirror < 0.5 else crop
    return out


def batch(n=64, channels=3, height=9, width=7, dtype=torch.uint8):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, 256, (n, channels, height, width), generator=generator).to(dtype)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize(("pad", "flip"), [(4, True), (4, False), (0, True), (1, True)])
def test_equals_the_definition_image_by_image(dtype, pad, flip):
    x, key = batch(dtype=dtype), keys(torch.arange(64), seed=1, epoch=2)
    augmented = Augment(pad=pad, flip=flip)(x, key)
    assert augmented.dtype == dtype
    assert torch.equal(augmented, naive(x, key, pad, flip))
    assert not torch.equal(augmented, x)


@pytest.mark.parametrize(("pad", "flip"), [(4, True), (4, False), (0, True)])
def test_crops_of_images_of_one_size_are_what_a_batch_becomes(pad, flip):
    x, key, augment = batch(), keys(torch.arange(64), seed=1, epoch=2), Augment(pad=pad, flip=flip)
    assert torch.equal(augment.crops(list(x), key, (9, 7)), augment(x, key))


def test_crops_of_images_of_different_sizes_have_one_size():
    images = [batch(1, height=h, width=w)[0] for h, w in ((9, 7), (9, 20), (15, 7))]
    crops = Augment(pad=0, flip=False).crops(images, keys(torch.arange(3)), (9, 7))
    assert crops.dtype == torch.uint8
    for crop, image in zip(crops, images, strict=True):
        windows = image.unfold(1, 9, 1).unfold(2, 7, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)
        assert any(torch.equal(crop, window) for window in windows)


def test_no_padding_and_no_flip_is_the_identity():
    x = batch()
    assert torch.equal(Augment(pad=0, flip=False)(x, keys(torch.arange(64))), x)


def test_a_sample_does_not_depend_on_its_batch():
    x, key, augment = batch(), keys(torch.arange(64)), Augment()
    whole = augment(x, key)
    backwards = torch.arange(63, -1, -1)
    assert torch.equal(augment(x[backwards], key[backwards])[backwards], whole)
    assert torch.equal(torch.cat([augment(x[i : i + 1], key[i : i + 1]) for i in range(64)]), whole)


def test_the_key_decides():
    x, augment = batch(), Augment()
    assert torch.equal(augment(x, keys(torch.arange(64), epoch=1)), augment(x, keys(torch.arange(64), epoch=1)))
    assert not torch.equal(augment(x, keys(torch.arange(64), epoch=1)), augment(x, keys(torch.arange(64), epoch=2)))


def test_all_offsets_and_both_directions_come_about_equally_often():
    marked = torch.zeros(1, 1, 5, 5, dtype=torch.uint8)
    marked[0, 0, 2, 1] = 1  # the pixel tells the offset, and the side it is on the direction, while it moves by one
    n = 3600
    augmented = Augment(pad=1)(marked.expand(n, 1, 5, 5), keys(torch.arange(n)))
    places = augmented.flatten(1).float().argmax(1).bincount(minlength=25).view(5, 5)
    expected = torch.zeros(5, 5)
    for column in (0, 1, 2, 2, 3, 4):  # 1 shifted by -1, 0, 1, and mirrored 3 shifted likewise
        expected[1:4, column] += n / 18
    assert ((places - expected).abs() <= 5 * expected.sqrt()).all()


def test_does_not_write_into_its_input():
    x = batch()
    before = x.clone()
    Augment()(x, keys(torch.arange(64)))
    assert torch.equal(x, before)


def test_negative_padding_is_refused():
    with pytest.raises(UserError, match="got -1"):
        Augment(pad=-1)
