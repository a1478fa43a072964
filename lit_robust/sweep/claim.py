"""Which process works on a cell: a lock on a file in its folder, which the kernel gives back when its holders end.

It is a `flock`, which belongs to the open file and not to a process. The child that trains inherits it, so a cell stays
claimed until both the sweep and its child have ended, however they end: there is nothing to clean up after `kill -9`,
and a child that outlives a killed sweep finishes its work before anybody takes the cell over.

Between machines it holds where the file system shares such locks, as NFS version 4 does, and Lustre mounted with
`flock`. A file system without locks is refused. One that keeps them to each machine (mounted with `nolock` or
`localflock`) cannot be told from one that shares them: there, let one machine at a time run a sweep.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lit_robust.errors import UserError

_LOCK = "lock"
_TRIES = 3  # `claimed` holds the lock for a moment, which is no reason to go by


@contextmanager
def claim(folder: Path) -> Iterator[int | None]:
    """Claims a cell's folder, which is created.

    Yields:
        The descriptor of the lock, for the child to inherit; None if another process holds it.

    Raises:
        UserError: If the folder cannot be written or has no locks.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}; choose another place with --runs FOLDER") from error
    try:
        for trial in range(_TRIES):
            got = _lock(lock, fcntl.LOCK_EX, folder)
            if got or trial == _TRIES - 1:
                break
            time.sleep(0.01)
        yield lock if got else None
    finally:
        os.close(lock)  # and no LOCK_UN, which would take it from a child that is still alive


def claimed(folder: Path) -> bool:
    """Whether a living process holds the claim to a cell's folder.

    Raises:
        UserError: If the folder has no locks.
    """
    try:
        lock = os.open(folder / _LOCK, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        return not _lock(lock, fcntl.LOCK_SH, folder)
    finally:
        os.close(lock)


def _lock(lock: int, kind: int, folder: Path) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise UserError(
            f"the file system of {folder} has no locks ({error.strerror}), which keep two processes from one run; "
            "choose another place with --runs FOLDER"
        ) from error
    return True
