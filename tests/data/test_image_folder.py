import os

import numpy as np
import pytest
import torch
from PIL import Image

from lit_robust.data import ImageFolder
from lit_robust.errors import UserError


def write(path, height=6, width=6, mode="RGB", seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return torch.from_numpy(pixels)


@pytest.fixture
def folder(tmp_path):
    for split, n in (("train", 3), ("test", 2)):
        for label, name in enumerate(("cat", "dog")):
            for i in range(n):
                write(tmp_path / split / name / f"{i}.png", seed=100 * label + 10 * n + i)
    return tmp_path


def load(folder, **options):
    data = ImageFolder(root=str(folder), val_split=0, **options)
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    return data


def test_images_labels_and_classes(folder):
    expected = write(folder / "train" / "cat" / "deeper" / "x.PNG", seed=9)
    (folder / "train" / "cat" / "notes.txt").write_text("not an image")
    (folder / "train" / ".cache").mkdir()
    data = load(folder)
    assert (data.classes, data.num_classes, data.image_shape, data.name) == (("cat", "dog"), 2, (3, 6, 6), folder.name)
    assert data.images(train=True).y.tolist() == [0, 1, 0, 1, 0, 1, 0], "a part of them holds all classes"
    assert data.images(train=False).y.tolist() == [0, 1, 0, 1]
    assert torch.equal(data.images(train=True).x[6], expected.permute(2, 0, 1))


def test_grey_images_are_read_as_colour_and_back(folder):
    grey = write(folder / "test" / "cat" / "0.png", mode="L", seed=4)
    assert torch.equal(load(folder).images(train=False).x[0], grey.expand(3, 6, 6))
    data = load(folder, channels=1)
    assert data.image_shape == (1, 6, 6)
    assert torch.equal(data.images(train=False).x[0, 0], grey)


def test_size_brings_all_images_to_one_size(folder):
    write(folder / "train" / "dog" / "wide.png", height=6, width=20)
    data = load(folder, size=8)
    assert data.image_shape == (3, 8, 8)
    assert data.images(train=True).x.shape == (7, 3, 8, 8)


def test_a_test_class_without_images_may_be_absent(folder):
    for path in (folder / "test" / "cat").iterdir():
        path.unlink()
    (folder / "test" / "cat").rmdir()
    assert load(folder).images(train=False).y.tolist() == [1, 1]


def test_a_test_folder_without_classes(folder):
    (folder / "test").rename(folder / "other")
    (folder / "test").mkdir()
    with pytest.raises(UserError, match=r"at least 1 folders in .*test, one a class, got none"):
        ImageFolder(root=str(folder))


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_missing_folder(folder, split):
    (folder / split).rename(folder / "other")
    with pytest.raises(UserError, match=rf"{folder / split} does not exist.*train/CLASS"):
        ImageFolder(root=str(folder))


def test_a_folder_of_images_without_classes(tmp_path):
    write(tmp_path / "train" / "0.png")
    with pytest.raises(UserError, match="got none; images have to lie in train/CLASS"):
        ImageFolder(root=str(tmp_path))


def test_one_class(tmp_path):
    write(tmp_path / "train" / "cat" / "0.png")
    with pytest.raises(
        UserError, match=r"at least 2 folders in .*train, one a class, got cat; images have to lie in train/CLASS"
    ):
        ImageFolder(root=str(tmp_path))


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_empty_class(folder, split):
    for path in (folder / split / "dog").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=rf"no images in {folder / split / 'dog'}"):
        ImageFolder(root=str(folder))


def test_a_class_that_only_the_test_set_has(folder):
    write(folder / "test" / "fox" / "0.png")
    with pytest.raises(UserError, match=r"classes that .*train has not: fox"):
        ImageFolder(root=str(folder))


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_file_that_is_no_image_is_named_before_training(folder, split):
    (folder / split / "dog" / "1.png").write_bytes(b"nonsense")
    data = ImageFolder(root=str(folder))
    with pytest.raises(UserError, match=rf"{folder / split / 'dog' / '1.png'} cannot be read as an image"):
        data.prepare_data()


@pytest.mark.parametrize("options", [{}, {"size": 8}])
def test_a_truncated_image_is_named(folder, options):
    path = folder / "train" / "dog" / "1.png"
    path.write_bytes(path.read_bytes()[:80])
    data = ImageFolder(root=str(folder), **options)
    with pytest.raises(UserError, match=rf"{path} cannot be read as an image"):
        data.setup("fit")


@pytest.mark.parametrize("prepare", [True, False])
def test_different_sizes_need_a_size(folder, prepare):
    path = folder / "test" / "dog" / "1.png"
    write(path, height=6, width=7)
    data = ImageFolder(root=str(folder))
    with pytest.raises(UserError, match=rf"6 x 6 pixels, {path} has 6 x 7; set data.size"):
        data.prepare_data() if prepare else data.setup("test")


def test_an_image_that_cannot_be_padded_is_named(folder):
    path = folder / "train" / "dog" / "1.png"
    write(path, height=6, width=9)
    with pytest.raises(UserError, match=rf"{path}: .*6 x 9 pixels to size 8"):
        ImageFolder(root=str(folder), size=8, resize="pad").setup("fit")


def test_the_memory_limit_is_checked_before_decoding(folder):
    for path in (folder / "train").rglob("1.png"):
        path.write_bytes(b"would fail to decode")
    with pytest.raises(UserError, match=r"the 10 images .* 0.00698 GiB at 3 x 500 x 500.*max_memory_gib=0.005.*size"):
        ImageFolder(root=str(folder), size=500, max_memory_gib=0.005)
    ImageFolder(root=str(folder), size=500, max_memory_gib=0.008)


def test_the_order_does_not_depend_on_how_the_file_system_lists(folder, monkeypatch):
    expected = load(folder).images(train=True).x
    walk = os.walk

    def backwards(*arguments, **options):
        for parent, folders, names in walk(*arguments, **options):
            yield parent, folders, sorted(names, reverse=True)

    monkeypatch.setattr("os.walk", backwards)
    assert torch.equal(load(folder).images(train=True).x, expected)
