"""Run folders: `runs/<name>/<number>` with `config.yaml`, `metrics.csv`, `checkpoints/` and `tests/<config>-<n>/`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch
import yaml

from lit_robust.errors import UserError

CONFIG = "config.yaml"
BEST = "best.ckpt"
LAST = "last.ckpt"


def claim(parent: Path, prefix: str = "") -> Path:
    """Creates the folder `parent/<prefix><n>` with the lowest free number above all taken ones.

    Creating a directory is atomic, so two processes never get the same one.

    Raises:
        UserError: If the parent cannot be written.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        while True:
            taken = [int(m[1]) for p in parent.iterdir() if (m := re.fullmatch(rf"{re.escape(prefix)}(\d+)", p.name))]
            folder = parent / f"{prefix}{max(taken, default=0) + 1}"
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            return folder
    except OSError as error:
        reason = f"cannot create a run folder in {parent}: {error.strerror}"
        raise UserError(f"{reason}; choose another place with --runs FOLDER") from error


def newest(runs: Path, name: str) -> Path:
    """The newest run of a name that has a checkpoint.

    Raises:
        UserError: If there is none.
    """
    candidates = [p for p in (runs / name).glob("*") if p.name.isdigit() and checkpoint(p, None) is not None]
    if not candidates:
        others = sorted({p.parents[2].name for p in runs.glob(f"*/*/checkpoints/{LAST}")})
        raise UserError(
            f"no trained run called {name!r} in {runs}; train one with `fit --config {name}.yaml`, or name a run with "
            f"--run FOLDER" + (f" (runs of {', '.join(others)} are there)" if others else "")
        )
    return max(candidates, key=lambda p: int(p.name))


def checkpoint(run: Path, which: str | None) -> Path | None:
    """A run's checkpoint: `best`, `last`, or None for the best where one was kept, else the last."""
    folder = run / "checkpoints"
    names = {"best": [BEST], "last": [LAST], None: [BEST, LAST]}[which]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def config_file(run: Path) -> Path:
    """The saved config of a run.

    Raises:
        UserError: If the folder holds none.
    """
    if not (run / CONFIG).is_file():
        raise UserError(f"expected a run folder with a {CONFIG}, got {run}")
    return run / CONFIG


def load_config(run: Path) -> dict[str, Any]:
    """What the saved config of a run says.

    Raises:
        UserError: If the folder holds none.
    """
    config: dict[str, Any] = yaml.safe_load(config_file(run).read_text())
    return config


def data_name(data: dict[str, Any]) -> str:
    """What a config's data are called: the class of the data module, and the folder's name for an `ImageFolder`."""
    kind = str(data["class_path"]).rpartition(".")[2]
    root = data.get("init_args", {}).get("root")
    return f"{kind} {Path(root).name}" if kind == "ImageFolder" and root else kind


def differences(one: Any, other: Any, path: str = "") -> list[str]:  # noqa: ANN401 - configs
    """Dotted paths at which two configs differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [*one, *(key for key in other if key not in one)]
        return [d for key in keys for d in differences(one.get(key), other.get(key), f"{path}.{key}".lstrip("."))]
    return [] if one == other else [path]


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's content, weights only: a file that holds code is refused.

    Raises:
        UserError: If it is missing, damaged or holds more than tensors and plain values.
    """
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        reason = f"it holds a {named[1]}" if named else first.rstrip(".")
        raise UserError(
            f"{path} is not a checkpoint that can be read safely: {reason}. Only tensors and plain values are loaded, "
            "since a pickle runs code; where it comes from, save it as torch.save(model.state_dict(), path)"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(f"{path} holds a {type(content).__name__}, where a checkpoint or a state dict was expected")
    return content


def network_weights(content: dict[str, Any], prefix: str = "network.") -> dict[str, Any]:
    """The network's part of a checkpoint, names as in the network; a plain state dict is taken as it is."""
    if "state_dict" not in content:
        return dict(content)
    state = content["state_dict"]
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)} or dict(state)


def load_weights(module: torch.nn.Module, state: dict[str, Any], source: os.PathLike[str] | str) -> None:
    """Loads weights, all of them and into the right shapes.

    Raises:
        UserError: Naming what differs, if the weights are of another architecture.
    """
    own = module.state_dict()
    missing = [k for k in own if k not in state]
    unknown = [k for k in state if k not in own]
    shapes = [
        f"{k} {tuple(getattr(state[k], 'shape', ()))} for {tuple(own[k].shape)}"
        for k in own
        if k in state and getattr(state[k], "shape", None) != own[k].shape
    ]
    problems = [
        f"{len(names)} {what} (such as {names[0]})"
        for what, names in (("missing", missing), ("unknown", unknown), ("of another shape", shapes))
        if names
    ]
    if problems:
        raise UserError(
            f"the weights in {source} are of another network than {type(module).__name__}: {', '.join(problems)}"
        )
    module.load_state_dict(state)
