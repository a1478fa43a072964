"""The script that an evaluation leaves beside its adversarials, so that nobody has to believe it."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from pydoc import locate
from typing import Any

VERIFY = "verify.py"
_SCRIPT = '''\
"""Confirms adversarials.npz with torch and numpy alone; the network's code is looked for in the current folder too."""
import functools, importlib, pathlib, sys
import numpy, torch

NETWORK = {network}
WEIGHTS = {weights}  # beside this file; None if the network brings its own
def build(node):
    if isinstance(node, list):
        return [build(part) for part in node]
    if not isinstance(node, dict) or not {{"class_path", "factory"}} & set(node):
        return {{key: build(value) for key, value in node.items()}} if isinstance(node, dict) else node
    module, _, name = node.get("class_path", node.get("factory")).rpartition(".")
    kind, options = getattr(importlib.import_module(module), name), build(node.get("init_args") or {{}})
    return kind(**options) if "class_path" in node else functools.partial(kind, **options)
sys.path.append(".")
here = pathlib.Path(__file__).resolve().parent
found = dict(numpy.load(here / "adversarials.npz"))
network = build(NETWORK).to(torch.from_numpy(found["x"]).dtype).eval()
if WEIGHTS:
    state = torch.load(here / WEIGHTS, map_location="cpu", weights_only=True)
    if "state_dict" in state:
        state = state["state_dict"]
        state = {{k.removeprefix("network."): v for k, v in state.items() if k.startswith("network.")}} or state
    network.load_state_dict(state)
if not len(found["label"]):
    sys.exit(print("no adversarials"))
x, x_adv, y, eps = found["x"], found["x_adv"], found["label"], found["eps"]
order = {{"linf": numpy.inf, "l2": 2, "l1": 1, "l0": 0, "box": numpy.inf}}
delta = (x_adv.astype("float64") - x).reshape(len(x), -1)
distance = numpy.array([numpy.linalg.norm(d, order[n]) for d, n in zip(delta, found["norm"])])
allowed = (distance <= eps + 1e-6 * numpy.maximum(1, eps)) & (abs(x_adv.reshape(len(x), -1) - 0.5) <= 0.5 + 1e-6).all(1)
with torch.no_grad():
    wrong = [network(part).argmax(1) for part in torch.from_numpy(x_adv).split({size})]
confirmed = allowed & (torch.cat(wrong).numpy() != y)
for threat in dict.fromkeys(found["threat"].tolist()):
    mine = found["threat"] == threat
    print(f"{{threat}}: {{confirmed[mine].sum()}} of {{mine.sum()}} adversarials confirmed")
sys.exit(int(not confirmed.all()))
'''


def write_verification(folder: Path, network: Mapping[str, Any], weights: str | None, size: int) -> None:
    """Writes `verify.py`.

    Args:
        folder: Folder of the evaluation.
        network: Class path and arguments of the network, as in a config.
        weights: Its checkpoint, or None if the network brings its own weights.
        size: Images a forward pass.
    """
    beside = None if weights is None else os.path.relpath(Path(weights).resolve(), folder.resolve())
    (folder / VERIFY).write_text(
        _SCRIPT.format(network=repr(_with_factories(network)), weights=repr(beside), size=size)
    )


def _with_factories(node: Any) -> Any:  # noqa: ANN401 - a config
    """A config in which a part that its owner builds itself is a `factory`, not a `class_path`."""
    if isinstance(node, list):
        return [_with_factories(part) for part in node]
    if not isinstance(node, Mapping):
        return node
    plain = {key: _with_factories(value) for key, value in node.items()}
    if isinstance(plain.get("class_path"), str):
        for key, value in (plain.get("init_args") or {}).items():
            if isinstance(value, dict) and "class_path" in value and _is_factory(plain["class_path"], key):
                value["factory"] = value.pop("class_path")
    return plain


def _is_factory(path: str, key: str) -> bool:
    """Whether what is called `path` takes a callable for `key`, as its annotation says, or that of a base class."""
    owner = locate(path)
    for kind in getattr(owner, "__mro__", [owner]):
        try:
            named = inspect.signature(kind, eval_str=True).parameters.get(key)
        except NameError:  # a name that only type checkers import
            named = inspect.signature(kind).parameters.get(key)
        if named is not None:
            return "Callable" in str(named.annotation)
    return False
