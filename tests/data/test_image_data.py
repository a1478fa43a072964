import ast
import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import get_type_hints

import pytest
import torch
from jsonargparse import ArgumentParser

import lit_robust.data
from lit_robust import sampling
from lit_robust.data import Augment, Digits, ImageData, Images, Options
from lit_robust.errors import UserError


class Ramp(ImageData):
    """Ten training images and five test images whose pixels all have the image's number."""

    classes = ("even", "odd")
    native_shape = (1, 4, 4)
    loads = 0

    def load(self, train):
        self.loads += 1
        n = 10 if train else 5
        x = torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 1, 4, 4).contiguous()
        return Images(x, torch.arange(n) % 2, self.classes)


class Nothing(Ramp):
    def load(self, train):
        return Images(torch.empty(0, 1, 4, 4, dtype=torch.uint8), torch.empty(0, dtype=torch.int64), self.classes)


def indices(loader):
    return [index for _, _, batch in loader for index in batch.tolist()]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "data.batch_size of at least 1, got 0"),
        ({"batch_size": -3}, "data.batch_size of at least 1, got -3"),
        ({"eval_batch_size": 0}, "data.eval_batch_size of at least 1, got 0"),
        ({"size": 0}, "data.size of at least 1, got 0"),
        ({"val_split": 1.0}, r"data.val_split in \[0, 1\).*got 1.0"),
        ({"val_split": -0.1}, r"data.val_split in \[0, 1\).*got -0.1"),
        ({"channels": 2}, "data.channels of 1 .* got 2"),
        ({"resize": "crop"}, "data.resize to be resize or pad, got crop"),
    ],
)
def test_options_outside_their_range_are_refused_at_once(options, message):
    with pytest.raises(UserError, match=message):
        Digits(**options)


def test_everything_the_network_needs_is_known_before_loading():
    data = Ramp(size=6, channels=3)
    assert (data.num_classes, data.classes, data.image_shape, data.name) == (2, ("even", "odd"), (3, 6, 6), "Ramp")
    assert data.channels_out == 3
    assert Ramp().image_shape == (1, 4, 4)
    assert data.loads == 0


@pytest.mark.parametrize("options", [{}, {"size": 6}, {"channels": 3, "size": 7, "resize": "pad"}])
def test_batches_have_the_announced_shape(options):
    data = Ramp(**options)
    x, _, _ = next(iter(data.test_dataloader()))
    assert x.shape[1:] == data.image_shape


def test_the_split_is_fixed_disjoint_and_whole(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    train, val = Digits().split
    monkeypatch.setenv("PL_GLOBAL_SEED", "2")
    torch.manual_seed(3)
    again = Digits().split
    assert torch.equal(train, again[0])
    assert torch.equal(val, again[1])
    assert len(val) == round(0.1 * 1437)
    assert sorted(train.tolist() + val.tolist()) == list(range(1437))


def test_the_seed_of_the_split_chooses_another():
    assert not torch.equal(Digits(seed=0).split[1], Digits(seed=1).split[1])


def test_loaders_follow_the_split(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    data = Ramp(val_split=0.3, batch_size=3, eval_batch_size=2)
    train, val = data.split
    assert sorted(indices(data.train_dataloader())) == train.tolist()
    assert indices(data.val_dataloader()) == val.tolist()
    assert indices(data.test_dataloader()) == list(range(5))
    for x, y, index in data.val_dataloader():
        assert torch.equal(x[:, 0, 0, 0].long(), index)
        assert torch.equal(y, index % 2)


def test_the_order_of_training_follows_the_seed_of_the_run(monkeypatch):
    orders = []
    for seed in ("1", "2", "1"):
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        orders.append(indices(Digits().train_dataloader()))
    assert orders[0] == orders[2] != orders[1]


def test_without_validation_the_whole_training_set_is_used():
    data = Ramp(val_split=0)
    assert data.val_dataloader() == []
    assert sorted(indices(data.train_dataloader())) == list(range(10))


@pytest.mark.parametrize(("val_split", "counts"), [(0.04, "10 for training and 0"), (0.96, "0 for training and 10")])
def test_a_split_that_leaves_nothing_is_refused(val_split, counts):
    with pytest.raises(UserError, match=counts):
        Ramp(val_split=val_split).setup("fit")


def test_an_empty_set_is_refused():
    with pytest.raises(UserError, match="test set of Nothing has no images"):
        Nothing().setup("test")


def test_each_set_is_loaded_once_and_only_when_needed():
    data = Ramp()
    data.setup("fit")
    data.setup("validate")
    indices(data.train_dataloader())
    assert data.loads == 1
    data.setup("test")
    indices(data.test_dataloader())
    assert data.loads == 2


def test_fewer_blocks_than_processes_are_refused():
    data = Ramp(eval_batch_size=3)
    data.trainer = SimpleNamespace(global_rank=0, world_size=3)
    with pytest.raises(
        UserError, match=r"5 test images in blocks of 3 leave some of 3 processes.*eval_batch_size to 1"
    ):
        data.test_dataloader()
    data.eval_batch_size = 1
    assert indices(data.test_dataloader()) == [0, 3]


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(2, 1, 4, 4), torch.zeros(2).long(), "uint8, got .* of torch.float32"),
        (torch.zeros(2, 4, 4, dtype=torch.uint8), torch.zeros(2).long(), r"\(2, 4, 4\)"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(3).long(), r"2 labels of int64, got \(3,\)"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 2]), "from 0 to 1, one a class, got 0 to 2"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, -1]), "got -1 to 0"),
    ],
)
def test_images_check_their_tensors(x, y, message):
    with pytest.raises(UserError, match=message):
        Images(x, y, ("a", "b"))


def on_device(data, *, training, epoch=0):
    data.trainer = SimpleNamespace(training=training, current_epoch=epoch)
    x = torch.arange(256, dtype=torch.uint8).view(4, 1, 8, 8)
    index = torch.tensor([3, 1, 4, 0])
    return x, index, data.on_after_batch_transfer((x, index % 2, index), 0)


def test_bytes_become_exact_fractions():
    x, index, (scaled, y, same_index) = on_device(Digits(augment=Augment()), training=False)
    assert scaled.dtype == torch.float32
    assert torch.equal(scaled, x.float() / 255)
    assert scaled.max() == 1.0
    assert torch.equal(y, index % 2)
    assert torch.equal(same_index, index)


def test_training_images_are_augmented_by_their_key(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    augment = Augment(pad=2)
    x, index, (scaled, _, _) = on_device(Digits(augment=augment), training=True, epoch=3)
    assert torch.equal(scaled, augment(x, sampling.keys(index, seed=7, epoch=3)).float() / 255)
    assert not torch.equal(scaled, x.float() / 255)


def test_without_augmentation_training_images_stay():
    x, _, (scaled, _, _) = on_device(Digits(), training=True)
    assert torch.equal(scaled, x.float() / 255)


def test_heavy_libraries_are_imported_only_when_used():
    for path in Path(lit_robust.data.__file__).parent.glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not {name.partition(".")[0] for name in names} & {"torchvision", "sklearn", "PIL"}, path.name


def test_subclasses_accept_the_options_of_the_base():
    parameters = inspect.signature(ImageData.__init__).parameters
    hints = get_type_hints(ImageData.__init__)
    assert {name: hints[name] for name in parameters if name != "self"} == get_type_hints(Options)


@pytest.mark.parametrize(
    ("arguments", "name", "shape"),
    [
        (["Digits"], "Digits", (1, 8, 8)),
        (["FashionMNIST", "--data.root=somewhere", "--data.size=32", "--data.channels=3"], "FashionMNIST", (3, 32, 32)),
        (["MNIST", "--data.download=false"], "MNIST", (1, 28, 28)),
        (["CIFAR10", "--data.size=40", "--data.resize=pad"], "CIFAR10", (3, 40, 40)),
    ],
)
def test_short_names_and_options_work_on_a_command_line(arguments, name, shape):
    parser = ArgumentParser()
    parser.add_subclass_arguments(ImageData, "data")
    options = ["--data.augment.pad=2", "--data.batch_size=64"]
    data = parser.instantiate(parser.parse_args(["--data", *arguments, *options])).data
    assert (data.name, data.image_shape, data.batch_size, data.val_split) == (name, shape, 64, 0.1)
    assert data.augment == Augment(pad=2)
