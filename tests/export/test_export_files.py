"""Round trips bit for bit, what is refused, and the script in an interpreter of its own."""

import json
import os
import subprocess
import sys

import pytest
import torch
import yaml
from exported import Forgetful, run_of, shipped_config

from lit_robust import runs
from lit_robust.__main__ import main
from lit_robust.errors import UserError
from lit_robust.export import files
from lit_robust.export.agreement import check_export, logits
from lit_robust.export.command import export
from lit_robust.export.subject import load
from lit_robust.nn import AdditiveNoise

CNN = {"class_path": "lit_robust.nn.SmallCNN", "init_args": {"size": 16, "width": 0.25, "in_channels": 1}}
TIED = {"class_path": "exported.Tied", "init_args": {"hidden": 12}}
FILES = {"weights.pt", "weights.safetensors", "network.yaml", "load.py", "claim.json"}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def command(capfd, *argv):
    code = main(["export", *map(str, argv)])
    captured = capfd.readouterr()
    return code, captured.out, captured.err


SPECS = {
    "cnn": lambda: (CNN,),
    "tied": lambda: (TIED,),
    "hah": lambda: shipped_config("hah_digits.yaml"),
    "polarizing": lambda: shipped_config("polarizing_digits.yaml"),
    "sparse": lambda: shipped_config("sparse_digits.yaml"),
}


@pytest.mark.parametrize("name", SPECS)
def test_round_trip_bit_for_bit(name, tmp_path):
    pytest.importorskip("safetensors")
    from safetensors.torch import load_file

    network, target = run_of(tmp_path / "run", *SPECS[name]()), tmp_path / "out"
    claim = export(load(tmp_path / "run", None), target)
    assert claim["files"] == {"same_logits": ["weights.pt", "weights.safetensors"], "images": "64 test images"}
    assert {path.name for path in target.iterdir()} == FILES
    plain = torch.load(target / "weights.pt", weights_only=True)
    assert list(plain) == list(network.state_dict())
    for state in (plain, load_file(target / "weights.safetensors")):
        assert set(state) == set(network.state_dict())
        assert all(torch.equal(state[key], value) for key, value in network.state_dict().items())
        assert all(value.untyped_storage().nbytes() == value.nbytes for value in state.values())
    assert len((target / "load.py").read_text().splitlines()) <= 40
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_runs_and_files_that_a_network_is_made_of_come_along(tmp_path):
    inner = run_of(tmp_path / "inner", CNN)
    middle = {"class_path": "lit_robust.nn.FromRun", "init_args": {"run": "inner"}}
    run_of(tmp_path / "middle", middle)
    run_of(tmp_path / "outer", {"class_path": "lit_robust.nn.FromRun", "init_args": {"run": "middle", "ckpt": "last"}})
    torch.save(inner.state_dict(), tmp_path / "own.pth")
    export(load(tmp_path / "outer", "last"), tmp_path / "out")
    parts = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out" / "parts").rglob("*.ckpt"))
    assert parts == ["parts/1-middle/checkpoints/last.ckpt", "parts/2-inner/checkpoints/last.ckpt"]
    from_file = {"class_path": "lit_robust.nn.FromFile", "init_args": {"network": CNN, "file": "own.pth"}}
    run_of(tmp_path / "other", from_file)
    claim = export(load(tmp_path / "other", None), tmp_path / "out2")
    assert claim["additional_data"] is None
    assert (tmp_path / "out2" / "parts" / "1-own.pth").is_file()


def test_the_script_in_a_fresh_interpreter_without_the_run(tmp_path, capfd):
    network = run_of(tmp_path / "here" / "run", *shipped_config("polarizing_digits.yaml"))
    code, out, _ = command(capfd, "--run", tmp_path / "here" / "run", "--to", tmp_path / "out")
    assert code == 0
    assert "same logits, bit for bit, on 64 test images" in out
    (tmp_path / "here").rename(tmp_path / "gone")
    script = (
        "import sys, torch; sys.path.insert(0, sys.argv[1]); from load import load; network = load();"
        "torch.set_num_threads(1); torch.manual_seed(1); torch.save(network(torch.rand(3, 1, 16, 16)), 'logits.pt')"
    )
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "out")], check=True, env=environment, cwd=tmp_path)
    torch.manual_seed(1)
    assert torch.equal(torch.load(tmp_path / "logits.pt"), network(torch.rand(3, 1, 16, 16)))


def test_a_network_that_is_more_than_its_weights_is_refused_and_nothing_is_written(tmp_path):
    run_of(tmp_path / "run", {"class_path": "exported.Forgetful"})
    with pytest.raises(UserError, match=r"64 of 64 images have other logits.*register_buffer"):
        export(load(tmp_path / "run", None), tmp_path / "out")
    assert Forgetful.built > 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_one_other_logit_is_seen(tmp_path):
    run_of(tmp_path / "run", CNN)
    subject = load(tmp_path / "run", None)
    (tmp_path / "out").mkdir()
    files.write(tmp_path / "out", subject.spec, subject.network.state_dict())
    assert check_export(tmp_path / "out", subject) == ["weights.pt", "weights.safetensors"]
    state = subject.network.state_dict()
    last = list(state)[-1]
    state[last][-1] = torch.nextafter(state[last][-1], torch.tensor(9.0))
    with pytest.raises(UserError, match=r"rebuilt from weights\.pt is another one"):
        check_export(tmp_path / "out", subject)


def test_a_script_that_cannot_rebuild_the_network_is_an_error(tmp_path):
    run_of(tmp_path / "run", CNN)
    subject = load(tmp_path / "run", None)
    (tmp_path / "out").mkdir()
    wider = {**CNN, "init_args": {**CNN["init_args"], "width": 0.5}}
    files.write(tmp_path / "out", wider, subject.network.state_dict())
    with pytest.raises(UserError, match=r"cannot be rebuilt from weights\.pt: (?s:.)*size mismatch"):
        check_export(tmp_path / "out", subject)


def test_random_layers_are_compared_on_the_same_noise(tmp_path):
    run_of(tmp_path / "run", CNN)
    images = load(tmp_path / "run", None).images
    noisy = torch.nn.Sequential(AdditiveNoise(0.1), torch.nn.Flatten())
    assert torch.equal(logits(noisy, images), logits(noisy, images))
    assert not torch.equal(logits(noisy, images), images.flatten(1))


def test_without_safetensors_it_says_how_to_get_it(tmp_path, monkeypatch, capfd):
    run_of(tmp_path / "run", CNN)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    code, out, _ = command(capfd, "--run", "run")
    assert code == 0
    assert "pip install safetensors" in out
    assert {path.name for path in (tmp_path / "run" / "export").iterdir()} == FILES - {"weights.safetensors"}


def test_what_torchvision_would_download_is_left_out(tmp_path):
    spec = {"class_path": "torchvision.models.resnet18", "init_args": {"weights": "DEFAULT", "num_classes": 10}}
    local = files.localised([spec, "no/such/place"], tmp_path / "parts")
    assert local == [{**spec, "init_args": {"weights": None, "num_classes": 10}}, "no/such/place"]
    assert spec["init_args"]["weights"] == "DEFAULT"
    assert not (tmp_path / "parts").exists()


def test_which_checkpoint(tmp_path, capfd):
    run_of(tmp_path / "run", CNN, name="best.ckpt")
    first = next(iter(runs.load_checkpoint(tmp_path / "run/checkpoints/best.ckpt")["state_dict"]))
    content = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)
    content["state_dict"][first] = content["state_dict"][first] + 1
    torch.save(content, tmp_path / "run" / "checkpoints" / "last.ckpt")
    torch.save(runs.network_weights(content), tmp_path / "plain.pt")
    added = {}
    for which in ("best", "last", "plain.pt"):
        assert command(capfd, "--run", "run", "--ckpt_path", which, "--to", f"to-{which}")[0] == 0
        weights = torch.load(tmp_path / f"to-{which}" / "weights.pt", weights_only=True)
        added[which] = weights[first.removeprefix("network.")]
    assert torch.equal(added["last"], added["best"] + 1)
    assert torch.equal(added["plain.pt"], added["last"])
    assert command(capfd, "--run", "run")[0] == 0
    assert json.loads((tmp_path / "run/export/claim.json").read_text())["checkpoint"] == "best.ckpt"


class Code:
    def __reduce__(self):
        return print, ("run",)


def test_what_cannot_be_exported(tmp_path, capfd):
    def refused(said, *argv):
        code, _, err = command(capfd, *argv)
        assert code == 2
        assert said in err

    run_of(tmp_path / "run", CNN)
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    refused("expected one --run, got 0")
    refused("export knows no '--what'", "--run", "run", "--what", "1")
    refused("no run folder nowhere", "--run", "nowhere")
    refused("expected a run folder with a config.yaml", "--run", "empty")
    refused("full is not empty", "--run", "run", "--to", "full")
    refused("full/file is not empty", "--run", "run", "--to", "full/file")
    refused("has no best checkpoint", "--run", "run", "--ckpt_path", "best")
    refused("no checkpoint at nothing.pt", "--run", "run", "--ckpt_path", "nothing.pt")
    torch.save({"state_dict": {}, "extra": Code()}, tmp_path / "code.pt")
    refused("not a checkpoint that can be read safely", "--run", "run", "--ckpt_path", "code.pt")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pt")
    refused("of another network than SmallCNN", "--run", "run", "--ckpt_path", "other.pt")
    (tmp_path / "run" / "checkpoints" / "last.ckpt").unlink()
    refused("checkpoint; train it first", "--run", "run")
    assert not (tmp_path / "run" / "export").exists()
    assert command(capfd, "--help")[0] == 0


def test_an_empty_target_is_filled_and_random_images_do_without_data(tmp_path, capfd):
    run_of(tmp_path / "run", {**CNN, "init_args": {**CNN["init_args"], "size": 28}})
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    config["data"] = {"class_path": "lit_robust.data.MNIST", "init_args": {"root": "nowhere"}}
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "out").mkdir()
    code, out, _ = command(capfd, "--run", "run", "--to", "out")
    assert code == 0
    assert "64 random images" in out
    assert "the test images are not on this machine" in out
