"""A network of anybody's with the weights of a file."""

import argparse
import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from lit_robust.__main__ import main
from lit_robust.data import Digits
from lit_robust.errors import UserError
from lit_robust.nn import FromFile, SmallCNN, Standardize
from lit_robust.nn.from_run import _build

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


class Net(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
            self.head = nn.Linear(64, 5)

    def forward(self, x):
        return self.head(self.backbone(x))


X = torch.rand(6, 3, 6, 6, generator=torch.Generator().manual_seed(1))
TRAINED = Net(seed=7).train()
TRAINED(X)  # statistics of its own
TRAINED.eval()


def renamed(rename):
    return {rename(name): value for name, value in TRAINED.state_dict().items()}


def from_file(folder, content, **options):
    torch.save(content, folder / "weights.pt")
    return FromFile(Net(), str(folder / "weights.pt"), **options).eval()


PREFIXES = ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]
NESTED = ["state_dict", "model_state_dict", "model", "net", "ema"]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_of_wrappers_are_removed(tmp_path, prefix):
    network = from_file(tmp_path, renamed(lambda name: prefix + name))
    assert torch.equal(network(X), TRAINED(X))


def test_a_prefix_that_not_all_names_have_is_the_network_s_own(tmp_path):
    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            self.module, self.other = nn.Linear(2, 2), nn.Linear(2, 2)

    source = Module()
    torch.save(source.state_dict(), tmp_path / "weights.pt")
    loaded = FromFile(Module(), str(tmp_path / "weights.pt")).network
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in source.state_dict().items())


@pytest.mark.parametrize("nested", NESTED)
def test_weights_are_found_under_the_names_that_trainers_use(tmp_path, nested):
    content = {"epoch": 3, "args": ["--lr", 0.1], nested: renamed(lambda name: "module." + name)}
    assert torch.equal(from_file(tmp_path, content)(X), TRAINED(X))


def test_the_trained_weights_are_preferred_to_their_average(tmp_path):
    other = {name: torch.zeros_like(value) for name, value in TRAINED.state_dict().items()}
    content = {"ema": other, "optimizer": {"state": {}}, "state_dict": TRAINED.state_dict()}
    assert torch.equal(from_file(tmp_path, content)(X), TRAINED(X))


def test_the_longest_beginning_of_a_name_that_is_known_is_replaced(tmp_path):
    # Another's names: encoder.0.weight, encoder.head.weight.
    theirs = renamed(lambda name: "encoder." + name.removeprefix("backbone."))
    keys = {"encoder.": "backbone.", "encoder.head.": "head."}
    for order in (keys, dict(reversed(keys.items()))):
        assert torch.equal(from_file(tmp_path, theirs, keys=order)(X), TRAINED(X))
    assert torch.equal(from_file(tmp_path, renamed(lambda name: f"m.{name}"), keys={"m.": ""})(X), TRAINED(X))


def test_images_are_standardised_as_by_the_layer(tmp_path):
    network = from_file(tmp_path, TRAINED.state_dict(), mean=MEAN, std=STD)
    assert torch.equal(network(X), TRAINED(Standardize(MEAN, STD)(X)))
    assert not torch.equal(network(X), TRAINED(X))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": MEAN}, "one mean and one std a channel, got 3 and 0 values"),
        ({"std": STD}, "one mean and one std a channel, got 0 and 3 values"),
        ({"mean": MEAN, "std": STD[:2]}, "got 3 and 2 values"),
    ],
    ids=["mean", "std", "lengths"],
)
def test_half_a_standardisation_is_refused(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        from_file(tmp_path, TRAINED.state_dict(), **options)


def test_weights_of_another_network_are_refused_and_the_names_that_differ_are_said(tmp_path):
    theirs = renamed(lambda name: name.replace("head.", "fc."))
    with pytest.raises(
        UserError, match=r"another network than Net: 2 missing \(such as head\.weight\), 2 unknown .*fc\."
    ):
        from_file(tmp_path, theirs)
    theirs = TRAINED.state_dict() | {"head.weight": torch.zeros(10, 64)}
    with pytest.raises(UserError, match=r"1 of another shape \(such as head\.weight \(10, 64\) for \(5, 64\)\)"):
        from_file(tmp_path, theirs)


def test_a_file_that_holds_objects_is_refused_and_the_safe_way_is_said(tmp_path):
    with pytest.raises(UserError) as error:
        from_file(tmp_path, {"args": argparse.Namespace(lr=0.1), "state_dict": TRAINED.state_dict()})
    assert "it holds a argparse.Namespace. Only tensors and plain values" in str(error.value)
    assert "save it as torch.save(model.state_dict(), path)" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named():
    with pytest.raises(UserError, match=r"no checkpoint at nowhere\.pt"):
        FromFile(Net(), "nowhere.pt")


def test_its_own_checkpoint_is_loaded_like_any_other(tmp_path):
    network = from_file(tmp_path, TRAINED.state_dict(), mean=MEAN, std=STD)
    other = from_file(tmp_path, Net(seed=1).state_dict(), mean=(0, 0, 0), std=(1, 1, 1))
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(X), network(X))


def test_a_config_can_name_it(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        source = SmallCNN(size=16, width=0.25).eval()
    torch.save({"model": {f"module.{name}": value for name, value in source.state_dict().items()}}, tmp_path / "w.pt")
    small = {"class_path": "lit_robust.nn.SmallCNN", "init_args": {"size": 16, "width": 0.25}}
    options = {"network": small, "file": str(tmp_path / "w.pt"), "mean": [0.5], "std": [0.25]}
    network = _build({"class_path": "lit_robust.nn.FromFile", "init_args": options}).eval()
    x = torch.rand(3, 1, 16, 16)
    assert torch.equal(network(x), source((x - 0.5) / 0.25))


# --- a network in a Python file ---

NET = """
from torch import nn


class Net(nn.Sequential):
    def __init__(self, hidden: int = 8, num_classes: int | None = None) -> None:
        super().__init__(nn.Flatten(), nn.Linear(256, hidden), nn.ReLU(), nn.Linear(hidden, num_classes))


def small(num_classes: int | None = None) -> Net:
    return Net(4, num_classes)
"""
FGSM = '{"fgsm": {"class_path": "FGSM", "init_args": {"threat": {"eps": 0.2}}}}'
TEST = ["test", "--config", "natural_digits.yaml", "--data", "Digits", "--data.size=16", "--data.eval_batch_size=50"]
TEST += ["--evaluation.attacks", FGSM, "--trainer.limit_test_batches=2", "--trainer.enable_progress_bar=false"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to work in, and a file with a network in another one."""
    (tmp_path / "work").mkdir()
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "net_of_a_test.py").write_text(NET)
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path / "work"
    sys.modules.pop("net_of_a_test", None)


@pytest.mark.parametrize(("name", "hidden"), [("Net", 8), ("small", 4)])
def test_a_network_in_a_file_is_tested_with_its_weights(here, name, hidden):
    network = nn.Sequential(nn.Flatten(), nn.Linear(256, hidden), nn.ReLU(), nn.Linear(hidden, 10))
    torch.save(network.state_dict(), "weights.pt")
    assert main([*TEST, "--model-file", f"../code/net_of_a_test.py:{name}", "--ckpt_path", "weights.pt"]) == 0
    (folder,) = Path("runs").glob("*/1/tests/*")
    clean = json.loads((folder / "results.json").read_text())["clean"]
    images = Digits(size=16).images(train=False)
    with torch.no_grad():
        right = network(images.x[:100].float() / 255).argmax(1) == images.y[:100]
    assert (clean["correct"], clean["n"]) == (int(right.sum()), 100)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["model"]["init_args"]["network"]["class_path"] == f"net_of_a_test.{name}"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            "../code/net_of_a_test.py",
            "expected a Python file and a class or function in it, net.py:Net, got ../code/net",
        ),
        ("../code/net_of_a_test:Net", "expected a Python file"),
        ("../code/net_of_a_test.py:1", "expected a Python file"),
        ("../code/other.py:Net", "--model-file: no file ../code/other.py"),
        ("../code/net_of_a_test.py:Other", "net_of_a_test.Other"),
    ],
)
def test_a_file_without_the_network_is_said(here, capfd, value, message):
    assert main([*TEST, "--model-file", value, "--ckpt_path", "none"]) == 2
    error = capfd.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert not list(here.iterdir())
