"""The environment of a cell's processes: one process alone on one device, whatever started the sweep."""

from __future__ import annotations

from collections.abc import Mapping

from lit_robust.sweep.cell import Cell, Sweep

# What tells Lightning or MPI that a process is one of several that train together; a cell's never is.
_TOGETHER = ("SLURM_", "TORCHELASTIC_", "PMI_", "PMIX_", "OMPI_", "JSM_", "LSB_")
_RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "ROLE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
_ADDRESSES = ("MASTER_ADDR", "MASTER_PORT")
DEVICES = "CUDA_VISIBLE_DEVICES"


def of_child(environment: Mapping[str, str], sweep: Sweep, cell: Cell, device: str | None) -> dict[str, str]:
    """The environment of `fit` and `test` of a cell.

    Inside a SLURM job of several tasks Lightning would take each cell for a rank of one training, wait for the others,
    and let rank 0 alone write; so all variables of SLURM, MPI and torchrun are left out. Weights & Biases reads the
    group and the tags of a run from its own variables: the sweep, and the cell and the seed besides the user's tags.

    Args:
        environment: The environment of the sweep's process.
        sweep: The sweep.
        cell: The cell.
        device: The one CUDA device that it may see; None leaves that as it is.
    """
    kept = {
        key: value
        for key, value in environment.items()
        if not key.startswith(_TOGETHER) and key not in _RANKS and key not in _ADDRESSES
    }
    tags = [*filter(None, [environment.get("WANDB_TAGS")]), cell.group, f"seed{cell.seed}"]
    return {
        **kept,
        "PYTHONUNBUFFERED": "1",
        "WANDB_RUN_GROUP": sweep.name,
        "WANDB_TAGS": ",".join(tags),
        **({} if device is None else {DEVICES: device}),
    }


def slurm_task(environment: Mapping[str, str]) -> str | None:
    """What names a process of a SLURM job and stays the same when the job is requeued; None outside a job."""
    job = environment.get("SLURM_ARRAY_JOB_ID") or environment.get("SLURM_JOB_ID")
    if job is None:
        return None
    parts = [job, environment.get("SLURM_ARRAY_TASK_ID", ""), environment.get("SLURM_PROCID", "0")]
    return "-".join(part for part in parts if part)
