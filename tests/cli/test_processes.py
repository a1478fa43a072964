"""The same integers on one, two and four processes."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

QUICK = ["--config", "quickstart.yaml", "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"]
SHORT = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=12", "--evaluation.val_attack.steps=2"]


def lit_robust(folder, *argv):
    """Runs the command line in a process of its own, from which Lightning starts the others."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "lit_robust", *map(str, argv)]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module", params=[pytest.param("SmallCNN", marks=pytest.mark.slow), "CIFARResNet18"])
def run(request, tmp_path_factory):
    """A briefly trained run, with and without batch normalisation."""
    folder = tmp_path_factory.mktemp("processes")
    network = (
        ["--model.network=CIFARResNet18", "--model.network.width=0.125"] if request.param == "CIFARResNet18" else []
    )
    lit_robust(folder, "fit", *QUICK, *SHORT, *network, "--model.attack.steps=1")
    return folder / "runs/quickstart/1"


ATTACKS = """
evaluation:
  attacks:
    fgsm: {class_path: FGSM, init_args: {threat: {eps: 0.05}}}
    pgd: {class_path: Restarts, init_args: {n: 2, attack: {class_path: PGD, init_args: {threat: {eps: 0.05}}}}}
    noise: {class_path: GaussianNoise, init_args: {sigma: 0.1}}
"""


def per_sample(run, processes):
    """The per-sample results of a test on so many processes."""
    config = run / f"on{processes}.yaml"
    if not config.exists():
        config.write_text(ATTACKS)
        lit_robust(run, "test", "--run", run, "--config", config, f"--trainer.devices={processes}", *QUICK[2:])
    return pq.read_table(run / f"tests/on{processes}-1/per_sample.parquet")


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_every_process_count_gives_the_same_per_sample_results(run, processes):
    several = per_sample(run, processes)
    assert several.num_rows == 4 * 360, "every sample once under clean, fgsm, pgd and noise"
    assert several.equals(per_sample(run, 1))


def test_training_on_two_processes_keeps_one_folder_and_equal_weights(tmp_path):
    out = lit_robust(tmp_path, "fit", *QUICK, *SHORT, "--trainer.devices=2")
    assert out.strip().endswith("runs/quickstart/1")
    assert [p.name for p in (tmp_path / "runs/quickstart").iterdir()] == ["1"]
    state = torch.load(tmp_path / "runs/quickstart/1/checkpoints/last.ckpt", weights_only=True)
    assert state["global_step"] == 11, "1,293 samples on two processes are 11 batches of 64 on each"
    assert "checkpoint: runs/quickstart/1" in lit_robust(Path(tmp_path), "test", *QUICK, "--trainer.devices=2")
