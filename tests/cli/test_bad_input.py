"""A user's mistake: exit code 2, one message before any work that says how to mend it, and no folder left behind."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from tiny import TINY

QUICK = ["--config", "quickstart.yaml", *TINY, "--evaluation.val_attack.steps=1"]
PROBABILITIES = "from torch import nn\nclass Probabilities(nn.Sequential):\n    def __init__(self):\n"
PROBABILITIES += "        super().__init__(nn.Flatten(), nn.Linear(256, 10), nn.Softmax(1))\n"


def pgd(**settings):
    return json.dumps({"class_path": "PGD", "init_args": {"threat": {"eps": 0.1}, **settings}})


CASES = {
    "misspelt key": (["--model.netwrok", "VGG16"], ["netwrok", "network"]),
    "misspelt top-level key": (["--trainr.max_epochs", "1"], ["trainr", "trainer"]),
    "misspelt class": (["--model", "AdversarialTrainin"], ["AdversarialTrainin", "AdversarialTraining"]),
    "misspelt network": (["--model.network", "VGG61"], ["VGG61", "VGG16"]),
    "misspelt config": (["--config", "quikstart.yaml"], ["quikstart.yaml", "quickstart.yaml"]),
    "eps of grey levels": (["--model.attack", pgd(threat={"eps": 8})], ["did you mean 8/255?"]),
    "eps above the diameter": (["--model.attack", pgd(threat={"eps": 17, "norm": "l2"})], ["diameter", "17/255"]),
    "eps that is no number": (["--model.attack", pgd(threat={"eps": "8/25S"})], ["8/25S", "8/255"]),
    "negative steps": (["--model.attack", pgd(steps=-1)], ["steps", "-1"]),
    "step size 0": (["--model.attack", pgd(step_size=0)], ["step_size", "above 0"]),
    "too many classes": (["--model.network.num_classes", "11"], ["10 logits", "11"]),
    "probabilities": (["--model.network", "mine.Probabilities"], ["probabilities", "logits"]),
    "images too small": (["--model.network", "VGG16"], ["VGG16", "32 to 63", "data.size"]),
    "TRADES from the clean image": (
        ["--model", "TRADES", "--model.attack", pgd(start="clean")],
        ["start: clean", "gaussian"],
    ),
    "best without validation": (["--data.val_split", "0", "--checkpoints.monitor", "val/acc"], ["select: last"]),
    "missing data": (["--data", "CIFAR10", "--data.root", "nowhere"], ["nowhere", "LIT_ROBUST_DATA", "data.root"]),
    "empty image folder": (["--data", "ImageFolder", "--data.root", "empty"], ["empty", "train"]),
    "one class": (["--data", "ImageFolder", "--data.root", "one"], ["one", "class"]),
    "broken image": (["--data", "ImageFolder", "--data.root", "broken"], ["b.png"]),
    "unwritable folder": (["--runs", "/proc/nowhere"], ["/proc/nowhere", "--runs"]),
    "missing checkpoint": (["--ckpt_path", "missing.ckpt"], ["missing.ckpt"]),
    "missing run": (["--run", "runs/no/1"], ["runs/no/1"]),
    "unknown metric": (["--checkpoints.monitor", "val/rob"], ["val/rob", "val/robust"]),
    "no such attack for noise": (
        ["--model.attack", '{"class_path": "GaussianNoise", "init_args": {"sigma": -1}}'],
        ["sigma"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_named_before_any_work(cli, tmp_path, monkeypatch, case):
    Path("mine.py").write_text(PROBABILITIES)
    monkeypatch.syspath_prepend(tmp_path)
    for folder in ("empty/train", "empty/test", "one/train/a", "one/test/a", "broken/train/a", "broken/train/b"):
        Path(folder).mkdir(parents=True)
    for folder in ("one/train/a", "one/test/a", "broken/train/a"):
        Image.new("L", (28, 28)).save(f"{folder}/a.png")
    Path("broken/train/b/b.png").write_bytes(b"no image")
    for name in ("a", "b"):
        Path(f"broken/test/{name}").mkdir(parents=True)
        Image.new("L", (28, 28)).save(f"broken/test/{name}/a.png")
    argv, said = CASES[case]
    done = cli("fit", *([] if argv[0] == "--config" else QUICK), *argv)
    assert done.code == 2, done.err
    assert "Traceback" not in done.err
    message = done.err[done.err.index("error: ") :]
    for words in said:
        assert words in message, message
    assert not list(Path().glob("runs/*/*")), "nothing is left behind"


def test_a_loss_that_is_not_finite_names_step_and_term_and_keeps_the_last_checkpoint(cli):
    assert cli("fit", *QUICK).code == 0
    explosion = '{"class_path": "StepDecay", "init_args": {"milestones": [0.5], "gamma": 1e32}}'
    settings = ["--model.lr_scheduler", explosion, "--trainer.max_epochs=2", "--trainer.limit_train_batches=4"]
    done = cli("fit", *QUICK, *settings)
    assert done.code == 2
    assert "the loss is not finite at step 5 (epoch 1): ce = " in done.err
    for name in ("last.ckpt", "best.ckpt"):
        kept = torch.load(f"runs/quickstart/2/checkpoints/{name}", weights_only=True)
        assert kept["global_step"] == 4
        assert all(value.isfinite().all() for value in kept["state_dict"].values())


def test_weights_ruined_by_the_last_update_of_an_epoch_are_not_kept(cli):
    explosion = '{"class_path": "StepDecay", "init_args": {"milestones": [0.8], "gamma": 1e32}}'
    settings = ["--model.lr_scheduler", explosion, "--trainer.max_epochs=2", "--trainer.limit_train_batches=3"]
    done = cli("fit", *QUICK, *settings)
    assert done.code == 2
    assert "not finite" in done.err
    kept = torch.load("runs/quickstart/1/checkpoints/last.ckpt", weights_only=True)
    assert kept["global_step"] == 3
    tested = cli("test", "--run", "runs/quickstart/1")
    assert tested.code == 0, tested.err


@pytest.fixture
def trained(cli):
    done = cli("fit", *QUICK)
    assert done.code == 0, done.err
    return Path("runs/quickstart/1")


def test_weights_of_another_network_are_refused_with_the_difference(cli, trained):
    done = cli("test", "--run", trained, "--model.network.width", "2")
    assert done.code == 2
    assert "conv1.weight (32, 1, 5, 5) for (64, 1, 5, 5)" in done.err
    assert not list(trained.glob("tests/*"))


def test_a_checkpoint_that_holds_code_is_refused(cli, trained):
    torch.save({"state_dict": torch.nn.Linear(1, 1)}, trained / "checkpoints/best.ckpt")
    done = cli("test", "--run", trained)
    assert done.code == 2
    assert "torch.save(model.state_dict(), path)" in done.err


def test_a_damaged_checkpoint_is_refused(cli, trained):
    (trained / "checkpoints/best.ckpt").write_bytes(b"PK")
    done = cli("test", "--run", trained)
    assert done.code == 2
    assert "best.ckpt" in done.err


def test_a_run_without_checkpoint_and_an_unknown_command(cli, trained):
    (trained / "checkpoints/best.ckpt").unlink()
    (trained / "checkpoints/last.ckpt").unlink()
    assert "has no" in cli("test", "--run", trained).err
    unknown = cli("tets")
    assert unknown.code == 2
    assert "fit, validate, test, predict" in unknown.err


def test_nothing_is_overwritten(cli, trained):
    before = {p: p.read_bytes() for p in trained.rglob("*") if p.is_file()}
    assert cli("fit", *QUICK).code == 0
    assert cli("fit", "--model.netwrok=VGG16", *QUICK).code == 2
    assert {p: p.read_bytes() for p in trained.rglob("*") if p.is_file()} == before


def test_eps_comes_back_as_written(cli):
    for written in ("8/255", "0.5/255", "0.1"):
        done = cli("fit", *QUICK, f"--model.attack.threat.eps={written}", f"--name=n{written.replace('/', '_')}")
        assert done.code == 0, done.err
        saved = yaml.safe_load(Path(f"runs/n{written.replace('/', '_')}/1/config.yaml").read_text())
        assert str(saved["model"]["init_args"]["attack"]["init_args"]["threat"]["eps"]) == written
