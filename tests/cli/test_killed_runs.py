"""A run killed in the middle of an epoch and resumed is the run that was never stopped."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny import TINY

# 1,293 digits in batches of 32 are 41 batches an epoch, with a checkpoint every 7.
FIT = [sys.executable, "-m", "lit_robust", "fit"]
RUN = ["--config", "quickstart.yaml", "--trainer.enable_progress_bar=false", "--data.batch_size=32"]
RUN += ["--trainer.max_epochs=3", "--checkpoints.every_n_steps=7", "--evaluation.val_attack.steps=2"]
RUN += ["--data.augment", '{"pad": 1, "flip": true}', "--trainer.accelerator=cpu", "--model.lr_scheduler=Triangular"]


def start(folder, *argv):
    with (folder / "log").open("ab") as log:
        return subprocess.Popen([*FIT, *argv], cwd=folder, stdout=log, stderr=log)


def wait_for_step(run, step, process):
    """Until the last checkpoint is past a step."""
    path = run / "checkpoints/last.ckpt"
    for _ in range(1200):
        if path.is_file() and torch.load(path, weights_only=True)["global_step"] >= step:
            return
        assert process.poll() is None, "it ended too early"
        time.sleep(0.05)
    raise AssertionError("no checkpoint in time")


def metrics(run):
    with (run / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]


@pytest.mark.parametrize("step", [7, pytest.param(49, marks=pytest.mark.slow)])
def test_a_killed_run_resumes_to_equal_weights_and_metrics(tmp_path, step):
    whole = start(tmp_path, *RUN, "--name=whole")
    assert whole.wait(300) == 0, (tmp_path / "log").read_text()
    killed = start(tmp_path, *RUN, "--name=killed")
    run = tmp_path / "runs/killed/1"
    wait_for_step(run, step, killed)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    done = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert done < 123, "it was killed before its end"
    resumed = start(tmp_path, "--resume", "runs/killed/1")
    assert resumed.wait(300) == 0, (tmp_path / "log").read_text()

    for name in ("last.ckpt", "best.ckpt"):
        one, two = (
            torch.load(tmp_path / f"runs/{r}/1/checkpoints" / name, weights_only=True) for r in ("whole", "killed")
        )
        assert one["global_step"] == two["global_step"]
        assert all(torch.equal(one["state_dict"][key], two["state_dict"][key]) for key in one["state_dict"])
    assert metrics(tmp_path / "runs/whole/1") == metrics(run)


def test_no_row_of_the_metrics_is_lost_or_written_twice(cli):
    every = ["--trainer.log_every_n_steps=1", "--evaluation.val_attack.steps=1"]
    fit = ["--config", "quickstart.yaml", *TINY, *every]
    assert cli("fit", *fit, "--trainer.max_epochs=3", "--name=whole").code == 0
    assert cli("fit", *fit, "--name=parts").code == 0
    for epochs in (2, 3):
        assert cli("fit", "--resume", "runs/parts/1", f"--trainer.max_epochs={epochs}").code == 0
    assert metrics(Path("runs/parts/1")) == metrics(Path("runs/whole/1"))


def test_resume_goes_on_with_more_epochs_and_refuses_what_is_no_run(cli):
    fit = cli("fit", "--config", "quickstart.yaml", *TINY, "--evaluation.val_attack.steps=1")
    assert fit.code == 0, fit.err
    run = Path("runs/quickstart/1")
    config = (run / "config.yaml").read_bytes()
    more = cli("fit", "--resume", run, "--trainer.max_epochs=2")
    assert more.code == 0, more.err
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["epoch"] == 1
    assert (run / "config.yaml").read_bytes() == config
    assert not Path("runs/quickstart/2").exists()
    assert [p.name for p in run.glob("config.resumed-*")] == ["config.resumed-1.yaml"]
    changed = cli("fit", "--resume", run, "--model.optimizer.lr=0.5")
    assert changed.code == 2
    assert "model.init_args.optimizer.init_args.lr would change" in changed.err
    torch.save(torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"], "foreign.pt")
    foreign = cli("fit", "--resume", run, "--ckpt_path", "foreign.pt")
    assert foreign.code == 2
    assert "foreign.pt is no checkpoint of a run" in foreign.err
    assert cli("fit", "--resume", "runs/none/1").code == 2
    assert cli("test", "--resume", run).code == 2
