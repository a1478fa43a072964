import torch
from sklearn.datasets import load_digits

from lit_robust.data import Digits


def test_training_and_test_images_are_scikit_learns_digits_each_once():
    data = Digits()
    train, test = data.images(train=True), data.images(train=False)
    assert (len(train), len(test)) == (1437, 360)
    source = load_digits()
    expected = sorted(zip((source.images * 255 / 16).round().reshape(-1, 64).tolist(), source.target, strict=True))
    x = torch.cat([train.x, test.x])
    assert x.shape == (1797, *data.image_shape)
    found = sorted(zip(x.flatten(1).tolist(), torch.cat([train.y, test.y]).tolist(), strict=True))
    assert found == expected


def test_every_digit_has_its_share_of_the_test_set():
    counts = Digits().images(train=False).y.bincount(minlength=10)
    shares = torch.from_numpy(load_digits().target).bincount() * 360 / 1797
    assert ((counts - shares).abs() <= 1).all()


def test_the_test_set_does_not_depend_on_the_seed_of_the_split():
    assert torch.equal(Digits(seed=1).images(train=False).x, Digits(seed=2).images(train=False).x)
