"""The doctor through the front door, and the guard at the start of `fit` and `test`."""

import json
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from lit_robust.__main__ import main
from lit_robust.doctor import diagnose
from lit_robust.doctor.command import build

SMALL = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
NET = """import torch, torch.nn.functional as F
from torch import nn

class Mates(nn.Module):
    def __init__(self):
        super().__init__()
        self.read = nn.Linear(256, 10)
    def forward(self, x):
        return self.read(F.batch_norm(x, None, None, training=True).flatten(1))

class Dropped(nn.Module):
    def __init__(self):
        super().__init__()
        self.read = nn.Linear(256, 10)
    def forward(self, x):
        return self.read(F.dropout(x, 0.5).flatten(1))
"""


@pytest.fixture
def cli(tmp_path, monkeypatch, capfd):
    """Runs the command line in a folder of its own, where `net.py` lies."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("net.py").write_text(NET)
    sys.modules.pop("net", None)

    def run(*argv):
        code = main([str(a) for a in argv])
        captured = capfd.readouterr()
        return SimpleNamespace(code=code, out=captured.out, err=captured.err)

    return run


def left():
    return sorted(str(path) for path in Path().rglob("*") if path.is_file() and "__pycache__" not in path.parts)


SYSTEMS = ["quickstart.yaml", "natural_digits.yaml", "hah_digits.yaml", "polarizing_digits.yaml"]


@pytest.mark.parametrize("config", SYSTEMS)
def test_the_shipped_systems_are_healthy(tmp_path, monkeypatch, config):
    monkeypatch.chdir(tmp_path)
    found = list(diagnose(build(["--config", config])))
    assert [each for each in found if each.verdict in ("warning", "error")] == []
    assert sum(each.verdict == "ok" for each in found) > 20
    assert left() == []


def test_the_command_prints_a_row_a_check_and_leaves_nothing_behind(cli):
    done = cli("doctor", "--config", "natural_digits.yaml")
    assert done.code == 0, done.err
    for words in ("image range", "sets do not overlap", "how to mend it", "no errors, no warnings in 27 checks"):
        assert words in done.out
    assert left() == ["net.py"]


def test_an_error_makes_the_exit_code_1_and_the_other_checks_still_run(cli):
    noisy = json.dumps({"class_path": "PGD", "init_args": {"threat": {"eps": 0.1}, "steps": 3, "step_size": "eps/10"}})
    options = ["--model-file", "net.py:Mates", "--evaluation.val_attack", noisy]
    done = cli("doctor", "--config", "natural_digits.yaml", *options)
    assert done.code == 1, done.err
    assert "1 error, 1 warning in 27 checks" in done.out
    assert "running statistics" in " ".join(done.out.split())
    assert left() == ["net.py"]


def test_what_cannot_be_built_is_an_error_and_what_cannot_be_read_wrong_usage(cli):
    done = cli("doctor", "--config", "quickstart.yaml", "--model.attack.threat.eps=8")
    assert done.code == 1, done.err
    assert "did you mean 8/255?" in done.out
    done = cli("doctor", "--config", "quickstart.yaml", "--model.netwrok=VGG16")
    assert done.code == 2
    assert "did you mean network" in done.err
    assert cli("doctor", "--run", "runs/no/1").code == 2
    assert "--run" in cli("doctor", "--help").out
    assert left() == ["net.py"]


def test_fit_stops_at_an_error_before_it_trains(cli):
    done = cli("fit", "--config", "natural_digits.yaml", *SMALL, "--model-file", "net.py:Mates")
    assert done.code == 2
    assert "in eval mode the logits of an image change" in done.err
    assert not list(Path().glob("runs/*/*"))
    done = cli("fit", "--config", "quickstart.yaml", *SMALL, "--model.attack.step_size=2")
    assert done.code == 2
    assert "model.attack: a step of 2 crosses the whole range" in done.err
    assert not list(Path().glob("runs/*/*"))


def test_fit_says_a_warning_once_and_test_stops_at_an_error_too(cli):
    short = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--trainer.limit_test_batches=1"]
    options = [*SMALL, *short, "--model-file", "net.py:Dropped"]
    done = cli("fit", "--config", "natural_digits.yaml", *options)
    assert done.code == 0, done.err
    assert done.err.count("warning: ") == 1
    assert "turn dropout off in eval mode" in done.err
    before = left()
    wrong = json.dumps({"class_path": "PGD", "init_args": {"threat": {"eps": 0.1}, "step_size": 2}})
    done = cli("test", "--run", "runs/natural_digits/1", *SMALL, "--evaluation.attacks", f'{{"pgd": {wrong}}}')
    assert done.code == 2
    assert "evaluation.attacks.pgd: a step of 2" in done.err
    done = cli("doctor", "--run", "runs/natural_digits/1")
    assert done.code == 0, done.out
    assert re.search(r"accuracy above chance +│ (ok|warning)", done.out)  # the run's weights were loaded
    assert left() == before
    assert "LIT_ROBUST_FOLDER" not in os.environ
