"""Adversarial images on disk: one part a block, and at the end one `adversarials.npz` for anybody to check.

The file holds, a row for each image that was right and was broken under a threat model, `index`, `label`, `attack` (the
first that broke it), `threat`, `norm`, `eps` (infinite for any distance), `distance`, `x` and `x_adv`. It is written
array by array and part by part, so that memory does not grow with the number of images.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lit_robust.attacks import Attack
from lit_robust.attacks.minimum_norm import counted_in
from lit_robust.evaluation.store import remove_parts
from lit_robust.evaluation.verdict import CLEAN, BlockResult

ADVERSARIALS = "adversarials.npz"
IMAGES = ("x", "x_adv")
_COLUMNS = ("index", "label", "attack", "threat", "norm", "eps", "distance", *IMAGES)


class AdversarialStore:
    """The adversarials of one evaluation.

    Args:
        folder: Folder of the evaluation.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / ADVERSARIALS
        self._parts = folder / "parts" / "adversarials"

    def write(self, block: int, result: BlockResult, attacks: Mapping[str, Attack]) -> None:
        """Writes the part of a block in one step as seen by other processes."""
        self._parts.mkdir(parents=True, exist_ok=True)
        part = self._parts / f"{block:06d}.npz"
        aside = part.with_suffix(".part")
        with aside.open("wb") as file:
            np.savez_compressed(file, **_columns(result, attacks))
        os.replace(aside, part)

    def clear(self) -> None:
        """Removes the parts: all is done, or nobody goes on with what an interrupted evaluation left."""
        remove_parts(self._parts)

    def first(self, threat: str, count: int) -> list[tuple[Any, Any]]:
        """The first images of a threat model and their adversarials, before the parts are merged.

        Args:
            threat: Threat model, as text.
            count: How many at most.

        Returns:
            Pairs of (C, H, W).
        """
        found: list[tuple[Any, Any]] = []
        for part in sorted(self._parts.glob("*.npz")):
            with np.load(part) as content:
                mine = np.flatnonzero(content["threat"] == threat)[: count - len(found)]
                found += zip(content["x"][mine], content["x_adv"][mine], strict=True)
            if len(found) == count:
                break
        return found

    def merge(self) -> None:
        """Merges the parts of all processes into one file, by block."""
        parts = sorted(self._parts.glob("*.npz"))
        aside = self.path.with_suffix(".part")
        with zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name in _COLUMNS:
                _merge_array(archive, name, parts)
        os.replace(aside, self.path)


def _columns(result: BlockResult, attacks: Mapping[str, Attack]) -> dict[str, Any]:
    """A block's arrays, by attack."""
    right = result.prediction == result.label
    taken = {str(counted_in(attack)): ~right for attack in attacks.values()}
    rows: list[tuple[Any, ...]] = []
    for name, attack in attacks.items():
        if not attack.adversarial or name == CLEAN:
            continue
        counted = counted_in(attack)
        verdict, key = result.verdicts[name], str(counted)
        # Every nearest adversarial is an answer of its own; within a radius one image is proof enough.
        chosen = verdict.broken & right if counted.eps is None else verdict.broken & ~taken[key]
        taken[key] = taken[key] | chosen
        for i in chosen.nonzero().flatten().tolist():
            images = (result.x[i].cpu().numpy(), verdict.x_adv[i].cpu().numpy())
            numbers = (int(result.index[i]), int(result.label[i]))
            rows.append((*numbers, name, key, counted.norm, counted.radius, float(verdict.distance[i]), *images))
    if not rows:
        empty = result.x[:0].cpu().numpy()  # of the type of all other parts
        kinds = {"index": np.int64, "label": np.int64, "attack": "<U1", "threat": "<U1", "norm": "<U1"}
        return {name: empty if name in IMAGES else np.empty(0, kinds.get(name, np.float64)) for name in _COLUMNS}
    columns = zip(_COLUMNS, zip(*rows, strict=True), strict=True)
    return {name: np.stack(column) if name in IMAGES else np.array(column) for name, column in columns}


def _merge_array(archive: zipfile.ZipFile, name: str, parts: list[Path]) -> None:
    if name not in IMAGES:
        with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array(file, np.concatenate([_read(part, name) for part in parts]))
        return
    count = sum(len(_read(part, "index")) for part in parts)
    first = _read(parts[0], name)
    header = {"descr": first.dtype.str, "fortran_order": False, "shape": (count, *first.shape[1:])}
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(np.ascontiguousarray(_read(part, name)).tobytes())


def _read(part: Path, name: str) -> np.ndarray[Any, np.dtype[Any]]:
    with np.load(part) as content:
        array: np.ndarray[Any, np.dtype[Any]] = content[name]
    return array
