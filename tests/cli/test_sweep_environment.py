"""A cell is one process on one device: what its children see of SLURM, of Weights & Biases and of CUDA."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.fabric.utilities.rank_zero import _get_rank
from sweep_runs import PLAIN, sweeping  # noqa: F401 - the fixture `sweep`

from lit_robust.sweep import cell_run, environment
from lit_robust.sweep.cell import Cell, Sweep
from lit_robust.sweep.device import Device, taken, visible

CELL = Cell(group="A1N2-bn1", seed=3, choices={}, configs=(), overrides={}, tests={})
SWEEP = Sweep(name="study", cells=(CELL,), contents={})
IN_A_JOB = {
    "SLURM_JOB_ID": "12",
    "SLURM_NTASKS": "4",
    "SLURM_NTASKS_PER_NODE": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "3",
    "RANK": "3",
    "WORLD_SIZE": "4",
    "MASTER_ADDR": "host",
    "PMI_RANK": "3",
}
SCRIPT = Path(__file__).parents[2] / "docker" / "slurm_sweep.sh"


def of_child(given, device=None):
    return environment.of_child(given, SWEEP, CELL, device)


def test_inside_a_slurm_job_lightning_takes_a_cell_for_a_process_alone(monkeypatch):
    for key, value in IN_A_JOB.items():
        monkeypatch.setenv(key, value)
    assert SLURMEnvironment.detect()
    assert _get_rank() == 3
    own = of_child(os.environ)
    monkeypatch.setattr(os, "environ", own)
    assert not SLURMEnvironment.detect()
    assert _get_rank() is None
    assert not own.keys() & IN_A_JOB.keys()
    assert own["PATH"] == os.environ["PATH"]


def test_children_get_that_environment(sweep, monkeypatch):
    seen = []
    plain = cell_run._child

    def look(argv, output, locks, environment):
        seen.append((environment, len(locks)))
        return plain(argv, output, locks, environment)

    monkeypatch.setattr(cell_run, "_child", look)
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert sweep(PLAIN).code == 0
    tags = [own["WANDB_TAGS"] for own, _ in seen]
    assert tags == [f"{x},seed{seed}" for x in "ab" for seed in (0, 1) for _ in ("fit", "test")]
    assert {own["WANDB_RUN_GROUP"] for own, _ in seen} == {"study"}
    assert not any("SLURM_PROCID" in own for own, _ in seen)
    assert {locks for _, locks in seen} == {1}, "no device without CUDA"


def test_the_user_s_own_tags_stay_and_the_device_is_named_where_there_is_one():
    own = of_child({"WANDB_TAGS": "cluster", "CUDA_VISIBLE_DEVICES": "0,1"}, "1")
    assert own["WANDB_TAGS"] == "cluster,A1N2-bn1,seed3"
    assert own["CUDA_VISIBLE_DEVICES"] == "1"
    assert of_child({"CUDA_VISIBLE_DEVICES": "0,1"})["CUDA_VISIBLE_DEVICES"] == "0,1"


def test_weights_and_biases_reads_them(tmp_path):
    code = (
        "from lightning.pytorch.loggers import WandbLogger\n"
        "run = WandbLogger(project='p', name='n', save_dir='.').experiment\n"
        "print('seen', run.group, *run.tags)\n"
        "run.finish()"
    )
    env = {**os.environ, **of_child({}), "WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    # A process of its own, as a cell is: wandb reads its environment once a process.
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert "seen study A1N2-bn1 seed3" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("given", "task"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "5"}, "5-0"),
        ({"SLURM_JOB_ID": "5", "SLURM_ARRAY_JOB_ID": "4", "SLURM_ARRAY_TASK_ID": "1", "SLURM_PROCID": "2"}, "4-1-2"),
    ],
)
def test_a_task_is_named_by_what_a_requeued_job_keeps(given, task):
    assert environment.slurm_task(given) == task


# --- devices ---


def test_processes_take_different_devices_and_share_them_evenly_beyond_that(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    given = {"CUDA_VISIBLE_DEVICES": "4, GPU-a/b"}
    with (
        taken(given, tmp_path) as one,
        taken(given, tmp_path) as two,
        taken(given, tmp_path) as three,
    ):
        assert [one.name, two.name, three.name] == ["4", "GPU-a/b", "4"]
        with taken({**given, "SLURM_JOB_ID": "9"}, tmp_path) as other_job:
            assert other_job.name == "4"
    with taken(given, tmp_path) as again:
        assert again.name == "4", "given back"


def test_a_device_stays_taken_for_as_long_as_a_child_uses_it(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with taken({}, tmp_path) as device:
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=(device.lock,))
    with taken({}, tmp_path) as other:
        assert (device.name, other.name) == ("0", "1")
    child.communicate()
    with taken({}, tmp_path) as last:
        assert last.name == "0"


def test_without_cuda_there_is_no_device(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert visible({"CUDA_VISIBLE_DEVICES": "0"}) == []
    with taken({}, tmp_path) as device:
        assert device == Device()
    assert not list(tmp_path.iterdir())


# --- the script for SLURM ---


def cluster(folder, code, state):
    """Commands of a cluster and a sweep that ends with an exit code, which write what they are asked for."""
    commands = {
        "srun": 'echo "srun $*" >> asked.txt; "$@"',
        "python": f'echo "python $*" >> asked.txt; exit {code}',
        "squeue": f"echo {state}",
        "scontrol": 'echo "scontrol $*" >> asked.txt',
    }
    for name, body in commands.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(stat.S_IRWXU)
    own = {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "12", "SLURM_SUBMIT_DIR": str(folder)}
    done = subprocess.run(["bash", SCRIPT], cwd=folder, env=own, capture_output=True, text=True)
    return done, (folder / "asked.txt").read_text().splitlines()


@pytest.mark.parametrize(
    ("code", "state", "requeued", "ends"),
    [(0, "RUNNING", False, 0), (1, "RUNNING", False, 1), (130, "RUNNING", True, 0), (130, "COMPLETING", False, 130)],
)
def test_the_slurm_script_requeues_what_the_time_limit_stopped_and_nothing_else(tmp_path, code, state, requeued, ends):
    done, asked = cluster(tmp_path, code, state)
    assert done.returncode == ends, done.stderr
    assert asked[1] == "python -m lit_robust sweep partial_cutoffs_resnet18.yaml"
    assert ("scontrol requeue 12" in asked) == requeued


def test_the_slurm_script_names_three_lines_to_edit_and_a_sweep_that_is_there():
    text = SCRIPT.read_text()
    assert text.count("EDIT") == 4, "three, and the line that says so"
    assert (SCRIPT.parents[1] / "configs" / "sweeps" / "partial_cutoffs_resnet18.yaml").is_file()
