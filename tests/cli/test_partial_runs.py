"""Partial training through the front door: both ways to a first stage, a resume in each stage, what is refused."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from tiny import TINY

from lit_robust.regimes.partial import PartialTraining

CONFIG = ["--config", "partial_digits.yaml"]
QUICK = [*TINY, "--model.attack.steps=1"]
KEPT, RETRAINED = ("conv1", "conv2"), ("hidden", "linear")


def weights(run, name="last"):
    state = torch.load(Path(run) / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]
    return {name.removeprefix("network."): value for name, value in state.items()}


def equal(a, b, layers):
    names = [name for name in a if name.startswith(layers)]
    assert names
    return [torch.equal(a[name], b[name]) for name in names]


def test_the_first_stage_is_included(cli):
    done = cli("fit", *CONFIG, *QUICK, "--trainer.max_epochs=4")
    assert done.code == 0, done.err
    with Path("runs/partial_digits/1/metrics.csv").open() as file:
        stages = [float(row["train/stage"]) for row in csv.DictReader(file) if row["train/stage"]]
    assert stages == [1, 1, 2, 2]
    done = cli("test", *CONFIG, *TINY)
    assert done.code == 0, done.err
    assert "pgd50" in done.out


def test_the_first_stage_is_a_run(cli):
    first = cli(
        "fit", "--config", "quickstart.yaml", *QUICK, "--evaluation.val_attack.steps=1", "--trainer.max_epochs=2"
    )
    assert first.code == 0, first.err
    given = ["--model.first_stage=runs/quickstart/1", "--trainer.max_epochs=2"]
    done = cli("fit", *CONFIG, *QUICK, *given)
    assert done.code == 0, done.err
    before, after = weights("runs/quickstart/1", "best"), weights("runs/partial_digits/1")
    assert all(equal(before, after, KEPT))
    assert not any(equal(before, after, RETRAINED))
    Path("runs/quickstart").rename("runs/moved")
    done = cli("test", "--run", "runs/partial_digits/1", *TINY)
    assert done.code == 0, f"a test does not need the first stage: {done.err}"


def test_a_single_layer_by_its_name_or_number(cli):
    for number, layer in enumerate(("conv2", "1")):
        options = ["--model.code=N2A1", "--model.cutoff=null", f"--model.layer={layer}", "--trainer.max_epochs=2"]
        done = cli("fit", *CONFIG, *QUICK, *options, f"--name=single{number}")
        assert done.code == 0, done.err
    names = weights("runs/single0/1")
    assert all(equal(names, weights("runs/single1/1"), (*KEPT, *RETRAINED)))


@pytest.mark.parametrize("steps", [2, 4, 6])
def test_a_run_that_is_resumed_ends_as_an_uninterrupted_one(cli, steps):
    # After an epoch of the first stage, at the end of that stage, and after an epoch of the second.
    base = [*CONFIG, *QUICK, "--trainer.max_epochs=4", "--trainer.limit_val_batches=0", "--checkpoints.every_n_steps=1"]
    assert cli("fit", *base, "--name=whole").code == 0
    assert cli("fit", *base, f"--trainer.max_steps={steps}", "--name=cut").code == 0
    done = cli("fit", "--resume", "runs/cut/1", "--trainer.max_steps=-1")
    assert done.code == 0, done.err
    assert all(equal(weights("runs/whole/1"), weights("runs/cut/1"), (*KEPT, *RETRAINED)))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model.code=A1N3"], "'A1N2', 'N1A2', 'A2N1', 'N2A1', 'N1N2', 'A1A2', 'N2N1', 'A2A1'"),
        (
            ["--model.cutoff=hiden"],
            "nearest are hidden, linear, conv1. Its layers are, in order, conv1, conv2, hidden, linear",
        ),
        (["--model.cutoff=0"], "cutoff 0: no layer of SmallCNN lies before it"),
        (["--model.cutoff=4"], "cutoff 4: no layer of SmallCNN lies behind it"),
        (["--model.layer=conv2"], "either a cutoff or a layer, got cutoff=hidden and layer=conv2"),
        (["--model.cutoff=null", "--model.layer=conv2"], "a single layer is retrained by a code x2y1"),
        (["--model.first_stage=runs/nowhere/1"], "no run folder runs/nowhere/1"),
        (["--checkpoints.select=best"], "the best checkpoint may be one of the first stage"),
    ],
)
def test_bad_input_is_refused_before_any_work(cli, options, said):
    done = cli("fit", *CONFIG, *QUICK, *options)
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err
    assert not list(Path().rglob("*.ckpt"))
    assert not list(Path().glob("runs/*/*")), "the folder is given back"


def test_a_first_stage_of_another_kind_or_architecture_is_refused(cli):
    assert cli("fit", "--config", "natural_digits.yaml", *TINY).code == 0
    wide = ["--model.network.width=2", "--evaluation.val_attack.steps=1"]
    assert cli("fit", "--config", "quickstart.yaml", *QUICK, *wide, "--name=wide").code == 0
    natural, other = (
        cli("fit", *CONFIG, *QUICK, f"--model.first_stage=runs/{name}/1") for name in ("natural_digits", "wide")
    )
    assert natural.code == other.code == 2
    assert "first_stage: A expected, N found: A1N2" in natural.err
    assert "runs/natural_digits/1 was trained by Natural" in natural.err
    assert "the architecture of this run expected (SmallCNN), another found (SmallCNN of runs/wide/1)" in other.err
    assert "of another shape" in other.err


def processes(folder, *argv):
    """Runs `fit` in a process of its own, from which Lightning starts the others."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    command = [sys.executable, "-m", "lit_robust", "fit", *argv]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_two_processes_keep_what_is_kept(tmp_path):
    config = yaml.safe_load((Path(__file__).parents[2] / "configs/partial_digits.yaml").read_text())
    config["model"]["class_path"] = f"{PartialTraining.__module__}.PartialTraining"
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(config))
    both = ["--config", "two.yaml", *QUICK, "--trainer.max_epochs=4", "--trainer.devices=2"]
    processes(tmp_path, *both, "--name=whole")
    processes(tmp_path, *both, "--name=half", "--trainer.max_steps=4")
    half, whole = (weights(tmp_path / f"runs/{name}/1") for name in ("half", "whole"))
    assert all(equal(half, whole, KEPT)), "those of the first stage"
    assert not any(equal(half, whole, RETRAINED))
