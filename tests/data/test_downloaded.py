import os
import pickle
import socket
import struct
import time
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch

from lit_robust.data import CIFAR10, MNIST, FashionMNIST
from lit_robust.errors import UserError

REAL = os.environ.get("LIT_ROBUST_DATA")


def write_idx(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes())


def write_mnist(folder):
    rng = np.random.default_rng(0)
    for prefix, n in (("train", 20), ("t10k", 10)):
        write_idx(folder / f"{prefix}-images-idx3-ubyte", rng.integers(0, 256, (n, 28, 28), dtype=np.uint8))
        write_idx(folder / f"{prefix}-labels-idx1-ubyte", (np.arange(n) % 10).astype(np.uint8))


@pytest.fixture
def offline(monkeypatch):
    asked = []

    def refuse(request, *_, **__):
        asked.append(socket.getdefaulttimeout())
        raise URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    return asked


@pytest.mark.parametrize("kind", [MNIST, FashionMNIST])
def test_reads_files_below_root_without_a_network(kind, tmp_path, offline):
    write_mnist(tmp_path / kind.folder)
    data = kind(root=str(tmp_path), val_split=0.2)
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    assert data.images(train=True).x.shape == (20, 1, 28, 28)
    assert data.images(train=False).y.tolist() == list(range(10))
    raw = (tmp_path / kind.folder / "t10k-images-idx3-ubyte").read_bytes()[16:]
    assert bytes(data.images(train=False).x.flatten().tolist()) == raw
    assert offline == []


def test_reads_cifar10(tmp_path, monkeypatch):
    from torchvision import datasets

    folder = tmp_path / CIFAR10.folder
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3072), dtype=np.uint8)
    (folder / "batch").write_bytes(pickle.dumps({"data": pixels, "labels": [3, 9]}))
    (folder / "meta").write_bytes(pickle.dumps({"label_names": list(CIFAR10.classes)}))
    for name in ("train_list", "test_list"):
        monkeypatch.setattr(datasets.CIFAR10, name, [["batch", None]])
    monkeypatch.setattr(datasets.CIFAR10, "meta", {"filename": "meta", "key": "label_names", "md5": None})
    images = CIFAR10(root=str(tmp_path)).images(train=False)
    assert images.y.tolist() == [3, 9]
    assert torch.equal(images.x, torch.from_numpy(pixels).view(2, 3, 32, 32))
    assert images.x.is_contiguous()


@pytest.mark.parametrize("kind", [MNIST, FashionMNIST, CIFAR10])
def test_without_files_and_network_one_error_names_the_ways_out(kind, tmp_path, offline):
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        kind(root=str(tmp_path)).prepare_data()
    assert time.monotonic() - start < 5
    for part in (kind.__name__, str(tmp_path / kind.folder), "data.root", "LIT_ROBUST_DATA", "network", "Digits"):
        assert part in str(caught.value)
    assert "nor downloaded" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert offline
    assert all(timeout is not None and timeout <= 10 for timeout in offline)
    assert socket.getdefaulttimeout() is None


def test_download_false_asks_nobody_and_writes_nothing(tmp_path, offline):
    data = MNIST(root=str(tmp_path), download=False)
    data.prepare_data()
    with pytest.raises(UserError, match="could not be read") as caught:
        data.setup("fit")
    assert "nor downloaded" not in str(caught.value)
    assert offline == []
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_one_error_too(tmp_path):
    write_mnist(tmp_path / MNIST.folder)
    images = tmp_path / MNIST.folder / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:5000])
    with pytest.raises(UserError, match="MNIST could not be read from"):
        MNIST(root=str(tmp_path)).setup("fit")


def test_root_is_the_argument_or_the_environment_or_data(monkeypatch):
    monkeypatch.setenv("LIT_ROBUST_DATA", "elsewhere")
    assert MNIST(root="here").root == Path("here")
    assert MNIST().root == Path("elsewhere")
    monkeypatch.delenv("LIT_ROBUST_DATA")
    assert MNIST().root == Path("data")


def test_class_names_are_torchvisions():
    from torchvision import datasets

    assert list(FashionMNIST.classes) == datasets.FashionMNIST.classes
    assert [name[0] for name in datasets.MNIST.classes] == list(MNIST.classes)


@pytest.mark.skipif(not (REAL and (Path(REAL) / FashionMNIST.folder).is_dir()), reason="needs Fashion-MNIST")
def test_fashion_mnist():
    data = FashionMNIST(size=32, channels=3, resize="pad")
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    assert data.images(train=True).x.shape == (60_000, 3, 32, 32)
    assert len(data.split[1]) == 6000
    assert data.images(train=False).y.bincount().tolist() == [1000] * 10


@pytest.mark.skipif(not (REAL and (Path(REAL) / MNIST.folder).is_dir()), reason="needs MNIST")
def test_mnist():
    data = MNIST()
    data.prepare_data()
    assert len(data.images(train=True)) == 60_000
    # Known first labels of the test set.
    assert data.images(train=False).y[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
