"""Tests that were interrupted: found by what they were about, and gone on with only if that is still the same.

A test's folder holds `state.json` from its beginning: the settings, and digests of the weights, of the test images and
of this package's sources. The process that works in it holds a lock on the file, which ends with the process.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lit_robust import __version__, runs
from lit_robust.callbacks.robust_report import RESULTS
from lit_robust.data.images import Images
from lit_robust.errors import UserError

STATE = "state.json"
LOCK = "lock"
_UNRELATED = {"accelerator", "devices", "num_nodes", "strategy", "logger", "enable_progress_bar"}  # to the numbers


def identity(config: Mapping[str, Any], checkpoint: Mapping[str, Any] | None, images: Images) -> dict[str, Any]:
    """What a test is about, as plain JSON.

    Args:
        config: All settings; those of the machine play no part.
        checkpoint: The checkpoint's content, if there is one.
        images: The test images.
    """
    trainer = config.get("trainer", {})
    limited = trainer.get("limit_test_batches") is not None or config.get("evaluation", {}).get("budget") is not None
    # A limit is of batches on each process, so their number says which images a limited test is about.
    unrelated = _UNRELATED - {"devices", "num_nodes"} if limited else _UNRELATED
    trainer = {key: value for key, value in trainer.items() if key not in unrelated}
    return {
        "settings": json.loads(json.dumps({**config, "trainer": trainer})),
        "weights": state_digest({} if checkpoint is None else runs.network_weights(dict(checkpoint))),
        "images": _digest([images.x, images.y]),
        "lit_robust": __version__,
        "sources": _digest(_sources()),
    }


def find(
    run: Path, title: str, state: Mapping[str, Any], *, named: Path | None = None
) -> tuple[Path, dict[str, Any]] | None:
    """The interrupted test to go on with and its identity, or None.

    Args:
        run: Folder of the run; `*` as its name looks through all of a name's runs.
        title: What the test is called.
        state: Identity of the test that is asked for.
        named: Folder that has to be gone on with.

    Raises:
        UserError: If the folder that was named is finished, in use, or of something else.
    """
    folder = _newest(run, title) if named is None else _usable(named)
    if folder is None:
        return None
    old = read(folder)
    other = difference(old, state)
    if other and named is not None:
        raise UserError(f"{folder} can only go on with what it began with, but this differs: {other}")
    if other:
        print(f"{folder} was interrupted, but differs in {other}; this test starts anew", flush=True)
        return None
    print(f"going on with {folder}", flush=True)
    return folder, old


def remember(folder: Path, state: dict[str, Any], network: torch.nn.Module) -> None:
    """Writes what a test is about, with a digest of all weights, also those that the network brought itself.

    Raises:
        UserError: If those are not the ones that an interrupted test began with.
    """
    digest = state_digest(network.state_dict())
    if state.setdefault("network", digest) != digest:
        raise UserError(f"{folder} began with other weights of the network; remove it to start over")
    write(folder, state)


def write(folder: Path, state: Mapping[str, Any]) -> None:
    """Writes what a test is about in one step as seen by other processes."""
    aside = folder / f"{STATE}.part"
    aside.write_text(json.dumps(state, indent=2, ensure_ascii=False) + "\n")
    os.replace(aside, folder / STATE)


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What differs between two identities in words, empty if nothing does."""
    found = []
    if old.get("weights") != new["weights"]:
        found.append("the weights")
    if old.get("images") != new["images"]:
        found.append("the test images")
    if (old.get("lit_robust"), old.get("sources")) != (new["lit_robust"], new["sources"]):
        found.append(f"the package ({old.get('lit_robust')} against {new['lit_robust']}, or its sources)")
    return ", ".join([*runs.differences(old["settings"], new["settings"]), *found])


def read(folder: Path) -> dict[str, Any]:
    """The identity of the test in a folder.

    Raises:
        UserError: If the file is missing or damaged.
    """
    path = folder / STATE
    if not path.exists():
        raise UserError(
            f"expected the folder of an interrupted test, RUN/tests/TITLE-NUMBER with {STATE} in it, got {folder}; to "
            "begin a test of a run, use --run"
        )
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict) or "settings" not in content:
            raise ValueError("no settings in it")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({error}), so nobody knows what the blocks beside it are of; to start over, remove "
            f"{folder}"
        ) from error
    return content


def close(folder: Path) -> None:
    """Removes what only an unfinished test needs."""
    for name in (STATE, LOCK):
        (folder / name).unlink(missing_ok=True)


def _usable(folder: Path) -> Path:
    if (folder / RESULTS).exists():
        raise UserError(f"{folder} is finished; its figures are in {RESULTS}")
    if _in_use(folder):
        raise UserError(f"another process works in {folder}")
    return folder


def _newest(run: Path, title: str) -> Path | None:
    """The newest test of a title if it was interrupted and nobody works in it, else None."""
    found = [
        (int(folder.parents[1].name) if folder.parents[1].name.isdigit() else 0, int(match[1]), folder)
        for tests in (run.parent.glob("*/tests") if run.name == "*" else [run / "tests"])
        for folder in tests.glob("*")
        if (match := re.fullmatch(rf"{re.escape(title)}-(\d+)", folder.name))
    ]
    folder = max(found, default=(0, 0, None))[2]
    if folder is None or (folder / RESULTS).exists() or not (folder / STATE).exists() or _in_use(folder):
        return None
    return folder


def _in_use(folder: Path) -> bool:
    held = hold(folder)
    unlock(held)
    return held is None


def lock(folder: Path) -> int:
    """Locks a test's folder until the process ends, or `unlock`.

    Raises:
        UserError: If another process works in it.
    """
    held = hold(folder)
    if held is None:
        raise UserError(f"another process works in {folder}")
    return held


def unlock(held: int | None) -> None:
    """Gives a lock back."""
    if held is not None:
        os.close(held)


def hold(folder: Path) -> int | None:
    """Locks a test's folder for as long as the process lives; None if another process works in it.

    Where the file system has no locks, nobody is kept out.
    """
    held = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        return None
    except OSError:
        pass
    return held


def state_digest(state: Mapping[str, Any]) -> str:
    """A digest of weights by their names."""
    parts: list[bytes | torch.Tensor] = []
    for name, value in sorted(state.items()):
        parts += [name.encode(), value if isinstance(value, torch.Tensor) else repr(value).encode()]
    return _digest(parts)


def _digest(parts: list[bytes | torch.Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, torch.Tensor):
            digest.update(f"{part.dtype} {tuple(part.shape)}".encode())
            part = part.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        digest.update(part)
    return digest.hexdigest()


def _sources() -> list[bytes | torch.Tensor]:
    package = Path(__file__).parent
    files = sorted(package.rglob("*.py"))
    return [part for file in files for part in (str(file.relative_to(package)).encode(), file.read_bytes())]
