"""Dictionaries through the command line: learned from a shipped config, reused, resumed, refused."""

from pathlib import Path

import pytest
import torch
import yaml
from tiny import TINY

from lit_robust import shipped
from lit_robust.nn.dictionary import PatchDictionary
from lit_robust.nn.sparse_encoder import SparseEncoder

SMALL = ["--model.network.atoms=12", "--model.mini_batches=4", "--model.mini_batch=2", "--model.sample=30"]
CONFIGS = sorted(shipped.folder().glob("dictionary_*.yaml"))


def embedded(path):
    channels = 1 if "Digits" in path.read_text() else 3
    return ["--data", "Digits", "--data.size=16", f"--data.channels={channels}"]


@pytest.mark.parametrize("path", CONFIGS, ids=[path.stem for path in CONFIGS])
def test_a_dictionary_is_learned_and_reused(cli, path):
    fit = cli("fit", "--config", path.name, *embedded(path), *TINY, *SMALL)
    assert fit.code == 0, fit.err
    run = Path("runs") / path.stem / "1"
    asked = yaml.safe_load(path.read_text())["model"]["init_args"]
    patch, alpha = asked["network"]["init_args"]["patch"], asked["alpha"]
    found = PatchDictionary.load(run)
    wanted = {"patch": patch, "alpha": alpha, "atoms": 12, "mini_batches": 4, "stride": asked["stride"]}
    assert wanted.items() <= found.settings.items()
    encoder = SparseEncoder(str(run), stride=patch, patch=patch, atoms=12, alpha=alpha)
    assert encoder(torch.rand(1, found.settings["channels"], 16, 16)).shape == (1, 12, 16 // patch, 16 // patch)
    for name in ("dictionary.json", "dictionary.png", "checkpoints/last.ckpt"):
        assert (run / name).is_file()

    resumed = cli("fit", "--resume", run)
    assert resumed.code == 0, resumed.err
    assert torch.equal(PatchDictionary.load(run).atoms, found.atoms)
    tested = cli("test", "--run", run)
    assert tested.code == 2
    assert "a dictionary can only be learned" in tested.err


def test_a_centred_variant_lies_over_a_dictionary(cli):
    path = shipped.folder() / "dictionary_cifar10.yaml"
    variant = ["--config", path.name, "--config", "dictionary_centred.yaml"]
    fit = cli("fit", *variant, *embedded(path), *TINY, *SMALL)
    assert fit.code == 0, fit.err
    found = PatchDictionary.load("runs/dictionary_cifar10/1")
    assert found.settings["mean_removed"] is True
    assert found.settings["alpha"] == 0.1


@pytest.mark.parametrize("path", CONFIGS, ids=[path.stem for path in CONFIGS])
def test_a_config_says_what_it_is_and_how_to_run_it(path):
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ")
    assert f"fit --config {path.name}" in lines[1]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--model.mini_batches=0", "expected mini_batches of DictionaryLearning to be at least 1, got 0"),
        ("--model.network.patch=17", "do not fit the data's 1 x 16 x 16 images"),
        ("--model.network.atoms=0", "expected at least one atom"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_run(cli, option, message):
    done = cli("fit", "--config", "dictionary_digits.yaml", *TINY, *SMALL, option)
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err
    assert not list(Path("runs").glob("*/*"))
