"""Small trained models that come with the package, to attack before training one's own: `--run zoo/NAME`.

The package's folder may be read-only and is never written to. On first use a model is laid out as an ordinary run below
the folder of all runs, `runs/zoo/NAME/1`, and everything works on it as on any other run.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from uuid import uuid4

from lit_robust.errors import UserError
from lit_robust.runs import CONFIG

PREFIX = "zoo"
SUMS = "SHA256SUMS"  # in the format of `sha256sum -c`
VERSION = "zoo.sha256"  # in a folder that was laid out: which version of the model it is


def folder() -> Path:
    """The package's folder of models."""
    return Path(__file__).parent / "zoo"


def names() -> list[str]:
    """The models that there are, in the order of the alphabet."""
    return sorted({path.partition("/")[0] for path in _sums()})


def resolve(value: str | os.PathLike[str], root: str | os.PathLike[str]) -> Path:
    """The run folder that `--run` names: a path as it is, and for `zoo/NAME` a copy of that model.

    A run of one's own in a folder `zoo/NAME` comes first. Whether a path is there, the caller asks.

    Args:
        value: What was given.
        root: Folder of all runs, below which a model is laid out unless this version of it is there.

    Raises:
        UserError: If there is no such model, its files are not what the package was made with, or the folder of all
            runs cannot be written.
    """
    given = Path(value)
    if len(given.parts) != 2 or given.parts[0] != PREFIX or (given / CONFIG).is_file():
        return given
    if given.name in names():
        return _lay_out(given.name, Path(root))
    if given.is_dir():
        return given
    raise UserError(f"no model {given.as_posix()!r} in the zoo; there are {_listed()}")


def readable(value: str | os.PathLike[str]) -> Path:
    """The folder that a run is read from: a path as it is, and for `zoo/NAME` the package's own, with nothing copied.

    Args:
        value: What was given; a run of one's own in a folder `zoo/NAME` comes first.

    Raises:
        UserError: If the files of the model are not what the package was made with.
    """
    given = Path(value)
    ours = len(given.parts) == 2 and given.parts[0] == PREFIX and given.name in names()
    return packaged(given.name) if ours and not (given / CONFIG).is_file() else given


def packaged(name: str) -> Path:
    """The package's own folder of a model, to be read and not written, with its files checked.

    Args:
        name: `natural`, or `zoo/natural`.

    Raises:
        UserError: If there is no such model, or its files are not what the package was made with.
    """
    short = name.removeprefix(f"{PREFIX}/")
    if short not in names():
        raise UserError(f"no model {name!r} in the zoo; there are {_listed()}")
    for path, expected in _files(short).items():
        file = folder() / path
        found = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "no file"
        if found != expected:
            raise UserError(
                f"{file} is not the file that lit_robust was made with: expected SHA-256 {expected[:12]}…, got "
                f"{found[:12]}; install the package again"
            )
    return folder() / short


def _lay_out(name: str, root: Path) -> Path:
    """The run folder of this version of a model, copied unless it is there."""
    parent = root / PREFIX / name
    version = _version(name)
    found = _with_version(parent, version)
    if found is not None:
        return found
    source = packaged(name)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        aside = parent / f".part-{uuid4().hex}"
        aside.mkdir()
        try:
            _copy(name, source, aside)
            (aside / VERSION).write_text(f"{version}\n")
            return _publish(aside, parent, version)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        reason = f"cannot lay out {PREFIX}/{name} in {parent}: {error.strerror}"
        raise UserError(f"{reason}; choose another place with --runs FOLDER") from error


def _copy(name: str, source: Path, target: Path) -> None:
    for path in _files(name):
        copy = target / Path(path).relative_to(name)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.parent / path, copy)  # the content alone: a read-only package has read-only files


def _publish(aside: Path, parent: Path, version: str) -> Path:
    """Renames a complete copy to the next free number, unless another process did meanwhile."""
    while True:
        found = _with_version(parent, version)
        if found is not None:
            return found
        taken = [int(path.name) for path in parent.iterdir() if path.name.isdigit()]
        target = parent / str(max(taken, default=0) + 1)
        try:
            return aside.rename(target)
        except OSError:
            if not target.exists():  # it is not that another process was faster
                raise


def _with_version(parent: Path, version: str) -> Path | None:
    """The newest run that was laid out from this version of a model."""
    marks = [mark for mark in parent.glob(f"*/{VERSION}") if mark.parent.name.isdigit()]
    same = [mark.parent for mark in marks if mark.read_text().strip() == version]
    return max(same, key=lambda run: int(run.name), default=None)


def _version(name: str) -> str:
    lines = [f"{expected}  {path}\n" for path, expected in sorted(_files(name).items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _files(name: str) -> dict[str, str]:
    """SHA-256 of each file of a model, by its path within the package's folder of models."""
    return {path: expected for path, expected in _sums().items() if path.startswith(f"{name}/")}


def _sums() -> dict[str, str]:
    try:
        lines = (folder() / SUMS).read_text().splitlines()
    except FileNotFoundError as error:
        raise UserError(f"{folder()} holds no models; install the package again") from error
    return {path: expected for expected, path in (line.split(maxsplit=1) for line in lines)}


def _listed() -> str:
    return ", ".join(f"{PREFIX}/{name}" for name in names())
