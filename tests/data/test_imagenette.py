"""Imagenette from a generated folder: sizes, centres, crops of whole photographs, and what is refused."""

from urllib.error import URLError

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from lit_robust import sampling
from lit_robust.data import Augment
from lit_robust.data.imagenette import _FOLDERS, Imagenette
from lit_robust.errors import UserError
from lit_robust.sampling import Noise

SIDE = 24
SHAPES = [(SIDE, SIDE), (SIDE, 40), (31, SIDE), (3 * SIDE, SIDE)]  # the last has margins as tall as its centre


def write(path, height, width, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, format="PNG")  # without loss, so that pixels can be compared


@pytest.fixture
def root(tmp_path):
    for split, shapes in (("train", SHAPES), ("val", SHAPES[:2])):
        for label, name in enumerate(_FOLDERS):
            for i, (height, width) in enumerate(shapes):
                write(tmp_path / "imagenette2-160" / split / name / f"{i}.JPEG", height, width, 10 * label + i)
    return tmp_path


def load(root, **options):
    return Imagenette(root=str(root), download=False, size=SIDE, val_split=0, **options)


def original(root, split, label, number):
    path = root / "imagenette2-160" / split / _FOLDERS[label] / f"{number}.JPEG"
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)


def centre(image):
    top, left = ((each - SIDE) // 2 for each in image.shape[1:])
    return image[:, top : top + SIDE, left : left + SIDE]


def test_known_without_a_file(tmp_path):
    data = Imagenette(root=str(tmp_path))
    assert (data.image_shape, data.num_classes, data.name) == ((3, 160, 160), 10, "Imagenette")
    assert load(tmp_path, channels=1).image_shape == (1, SIDE, SIDE)


def test_class_names_and_folders_are_torchvisions():
    from torchvision.datasets import Imagenette as Theirs

    assert list(_FOLDERS) == sorted(Theirs._WNID_TO_CLASS)
    assert [Theirs._WNID_TO_CLASS[name][0] for name in _FOLDERS] == list(Imagenette.classes)


def test_centres_and_labels_the_classes_dealt_out(root):
    data = load(root)
    for train, per_class in ((True, 4), (False, 2)):
        images = data.images(train)
        assert images.x.shape == (10 * per_class, 3, SIDE, SIDE)
        assert images.y.tolist() == list(range(10)) * per_class
        for position in (0, 13, len(images) - 1):
            number, label = divmod(position, 10)
            expected = centre(original(root, "train" if train else "val", label, number))
            assert torch.equal(images.x[position], expected)


def test_a_crop_is_of_the_whole_photograph_padded(root):
    data, augment = load(root), Augment(pad=2)
    index = torch.tensor([35, 0, 12, 21, 39, 30])
    key = sampling.keys(index, seed=3, epoch=2)
    crops = data.augmented(augment, data.images(train=True).x[index], index, key)
    places = Noise(key).uniform("augment", (3,)).tolist()
    for crop, position, (vertical, horizontal, mirror) in zip(crops, index.tolist(), places, strict=True):
        image = original(root, "train", position % 10, position // 10)
        padded = F.pad(image, (2, 2, 2, 2))
        top, left = int(vertical * (image.shape[1] + 5 - SIDE)), int(horizontal * (image.shape[2] + 5 - SIDE))
        expected = padded[:, top : top + SIDE, left : left + SIDE]
        assert torch.equal(crop, expected.flip(2) if mirror < 0.5 else expected)


def test_crops_reach_both_ends_of_a_long_photograph(root):
    data = load(root)
    index = torch.full((300,), 30)
    crops = data.augmented(Augment(pad=0, flip=False), data.images(train=True).x[index], index, torch.arange(300))
    image = original(root, "train", 0, 3)
    tops = {next(t for t in range(2 * SIDE + 1) if torch.equal(image[:, t : t + SIDE], crop)) for crop in crops}
    assert {min(tops), max(tops)} == {0, 2 * SIDE}
    assert len(tops) > SIDE


@pytest.mark.parametrize("augment", [Augment(), None])
def test_a_trainer_gets_crops_in_training_alone(root, tmp_path, augment):
    import lightning.pytorch as pl
    from torch import nn

    seen = {}

    class Keep(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def training_step(self, batch, batch_idx):
            seen["train"] = batch
            return self.weight.sum()

        def validation_step(self, batch, batch_idx):
            seen["val"] = batch

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    data = Imagenette(root=str(root), download=False, size=SIDE, val_split=0.25, batch_size=30, augment=augment)
    run = pl.Trainer(default_root_dir=tmp_path, max_epochs=1, enable_model_summary=False, devices=1, **quiet)
    run.fit(Keep(), datamodule=data)
    centres = data.images(train=True).x.float() / 255
    x, _, index = seen["val"]
    assert torch.equal(x, centres[index])
    x, _, index = seen["train"]
    assert x.shape == (30, 3, SIDE, SIDE)
    if augment is None:
        assert torch.equal(x, centres[index])
    else:
        crops = data.augmented(augment, x, index, sampling.keys(index))
        assert torch.equal(x, crops.float() / 255)


def test_another_size_scales_the_shorter_side(root):
    data = Imagenette(root=str(root), download=False, size=12, val_split=0)
    assert data.images(train=True).x.shape == (40, 3, 12, 12)
    assert tuple(data._margins[10].around(data.images(train=True).x[10]).shape) == (3, 12, 20)
    grey = load(root, channels=1)
    assert grey.images(train=True).x.shape == (40, 1, SIDE, SIDE)
    assert grey.augmented(Augment(), grey.images(train=True).x[:2], torch.arange(2), torch.arange(2)).shape[1] == 1


def test_padding_to_a_size_is_refused(tmp_path):
    with pytest.raises(UserError, match="not to be padded to one"):
        Imagenette(root=str(tmp_path), resize="pad")


def test_files_that_are_there_are_not_downloaded_again(root, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("asked the network")

    monkeypatch.setattr("torchvision.datasets.Imagenette._download", refuse)
    data = Imagenette(root=str(root), size=SIDE, val_split=0)
    data.prepare_data()
    assert len(data.images(train=False)) == 20


def test_without_files_and_network_one_error_names_the_ways_out(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(UserError, match=r"nor downloaded .*data\.root"):
        Imagenette(root=str(tmp_path)).prepare_data()
    with pytest.raises(UserError, match="Imagenette could not be read from"):
        load(tmp_path).images(train=False)


def test_a_class_without_images_and_a_damaged_file_are_named(root):
    folder = root / "imagenette2-160" / "val" / _FOLDERS[4]
    (folder / "0.JPEG").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"0\.JPEG"):
        load(root).images(train=False)
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(UserError, match=f"no images in .*{_FOLDERS[4]}"):
        load(root).images(train=False)
