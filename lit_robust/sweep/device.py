"""One CUDA device for each process of a sweep: the least used of those that it may see, by locks on each machine.

Two processes on one machine take different devices as long as there are enough; further ones share them evenly. Where
a scheduler gave a process a device of its own it sees only that one and takes it. The lock is inherited by the child
that trains, so that a device stays taken for as long as it is used.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lit_robust.sweep.environment import DEVICES


@dataclass(frozen=True)
class Device:
    """A device that this process has taken.

    Attributes:
        name: As it stands in `CUDA_VISIBLE_DEVICES`; None without CUDA.
        lock: Descriptor of its lock, for the child to inherit; None without CUDA.
    """

    name: str | None = None
    lock: int | None = None


@contextmanager
def taken(environment: Mapping[str, str], folder: Path | None = None) -> Iterator[Device]:
    """Takes the least used device for as long as the context lasts.

    Args:
        environment: The environment of this process.
        folder: Folder of the locks, which is this machine's own; None for the user's in the one for temporary files.
    """
    names = visible(environment)
    if not names:
        yield Device()
        return
    job = environment.get("SLURM_JOB_ID", "")  # jobs may number their own devices from 0
    home = folder or Path(tempfile.gettempdir()) / f"lit_robust-devices-{os.getuid()}"
    home.mkdir(mode=0o700, exist_ok=True)
    device = _first_free(names, home, job)
    try:
        yield device
    finally:
        if device.lock is not None:
            os.close(device.lock)


def visible(environment: Mapping[str, str]) -> list[str]:
    """Names of the CUDA devices that this process may use; none without CUDA."""
    import torch

    count = torch.cuda.device_count()
    if environment.get(DEVICES):
        return [name.strip() for name in environment[DEVICES].split(",") if name.strip()][:count]
    return [str(number) for number in range(count)]


def _first_free(names: Sequence[str], home: Path, job: str) -> Device:
    """The first free place of the first device that has one: all first places, then all second ones."""
    for place in itertools.count():
        for name in names:
            lock = os.open(home / re.sub(r"[^\w.-]", "_", f"{job}-{name}.{place}"), os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                continue
            except OSError:  # a file system without locks: everybody takes the first device, as without a sweep
                os.close(lock)
                return Device(name)
            return Device(name, lock)
    raise AssertionError("counting does not end")
