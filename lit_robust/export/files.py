"""The files of an export: weights in two formats, the network's config, and a script that puts them together."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from lit_robust import runs
from lit_robust.errors import UserError
from lit_robust.nn.dictionary import FILE as DICTIONARY

WEIGHTS = "weights.pt"
SAFETENSORS = "weights.safetensors"
NETWORK = "network.yaml"
LOAD = "load.py"
PARTS = "parts"  # copies of runs and files that the network's constructors read

_SCRIPT = '''\
"""The exported network: `from load import load; network = load()`, images (N, C, H, W) in [0, 1] to logits.

Needs torch, pyyaml, jsonargparse and whatever package the class paths in network.yaml are of. They name code that is
run; the weights are read as tensors only.
"""
import contextlib, os, pathlib, sys

import jsonargparse, torch, yaml

HERE = pathlib.Path(__file__).resolve().parent


def load(weights=HERE / "weights.pt"):
    """The network in eval mode, with the weights of a file: weights.pt or weights.safetensors."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # where classes of one's own may be
    parser = jsonargparse.ArgumentParser()
    parser.add_argument("--network", type=torch.nn.Module)
    with contextlib.chdir(HERE):  # parts of the network are looked for beside this file
        spec = yaml.safe_load(pathlib.Path("network.yaml").read_text())
        network = parser.instantiate(parser.parse_object({"network": spec})).network
    if pathlib.Path(weights).suffix == ".safetensors":
        from safetensors.torch import load_file

        state = load_file(weights)
    else:
        state = torch.load(weights, map_location="cpu", weights_only=True)
    network.load_state_dict(state)
    return network.eval()


if __name__ == "__main__":
    print(load())
'''


def write(folder: Path, spec: Mapping[str, Any], state: Mapping[str, Any]) -> str:
    """Writes weights, config and script.

    Args:
        folder: An empty folder.
        spec: Class path and arguments of the network, as in a config.
        state: Its state dict.

    Returns:
        Why there is no `weights.safetensors`, or the empty string.
    """
    # A tensor of its own each: a view would bring all of its storage, and safetensors refuses shared ones.
    own = {name: _own(value) for name, value in state.items()}
    torch.save(own, folder / WEIGHTS)
    local = localised(dict(spec), folder / PARTS)
    (folder / NETWORK).write_text(yaml.safe_dump(local, sort_keys=False, allow_unicode=True))
    (folder / LOAD).write_text(_SCRIPT)
    return _write_safetensors(folder / SAFETENSORS, own)


def localised(node: Any, parts: Path) -> Any:  # noqa: ANN401 - any part of a config
    """A config whose runs and files are copies below `parts`, named from its parent, and which downloads nothing.

    Args:
        node: The network's config, or a part of it.
        parts: Folder of the copies; made when there is one.
    """
    if isinstance(node, list):
        return [localised(part, parts) for part in node]
    if isinstance(node, Mapping):
        downloads = str(node.get("class_path", "")).startswith("torchvision.")
        options = {key: localised(value, parts) for key, value in node.items() if key != "class_path"}
        if downloads and (options.get("init_args") or {}).get("weights") is not None:
            options["init_args"]["weights"] = None  # they are overwritten by the exported ones
        return {**({"class_path": node["class_path"]} if "class_path" in node else {}), **options}
    return _copied(Path(node), parts) if isinstance(node, str) and _is_place(node) else node


def _is_place(value: str) -> bool:
    """Whether a setting names a run or a file; a word such as `relu` does not, whatever is in the current folder."""
    path = Path(value)
    return (path / runs.CONFIG).is_file() or (path.name != value and path.exists()) or ("." in value and path.is_file())


def _copied(source: Path, parts: Path) -> str:
    """Copies a file, or of a run what a network needs; the copy's path from the parent of `parts`."""
    parts.mkdir(exist_ok=True)
    target = parts / f"{len(list(parts.iterdir())) + 1}-{source.resolve().name}"
    place = f"{parts.name}/{target.name}"
    if source.is_file():
        shutil.copyfile(source, target)
        return place
    target.mkdir()  # its number is taken before its own parts are copied
    if (source / runs.CONFIG).is_file():
        config = runs.load_config(source)
        network = config["model"]["init_args"]["network"]
        config["model"]["init_args"]["network"] = localised(network, parts)
        (target / runs.CONFIG).write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    if (source / DICTIONARY).is_file():
        shutil.copyfile(source / DICTIONARY, target / DICTIONARY)
    for name in (runs.BEST, runs.LAST):
        if (path := source / "checkpoints" / name).is_file():
            (target / "checkpoints").mkdir(exist_ok=True)
            weights = {name: _own(value) for name, value in runs.network_weights(runs.load_checkpoint(path)).items()}
            torch.save(weights, target / "checkpoints" / name)
    return place


def _own(value: object) -> object:
    return value.detach().cpu().clone().contiguous() if isinstance(value, Tensor) else value


def _write_safetensors(path: Path, state: Mapping[str, Any]) -> str:
    other = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if other:
        return f"no {path.name}: {other[0]} is not a tensor, and the format holds tensors alone"
    try:
        from safetensors.torch import save_file
    except ImportError:
        return f"no {path.name}: that needs a package that is not installed; pip install safetensors"
    save_file(dict(state), path, metadata={"format": "pt"})
    shutil.copymode(path.with_name(WEIGHTS), path)  # it comes readable to its owner alone
    return ""


def check_target(folder: Path) -> None:
    """Refuses a target that would be overwritten.

    Raises:
        UserError: If it is a file, or a folder with something in it.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise UserError(f"--to: {folder} is not empty; name a new folder, or remove this one")
