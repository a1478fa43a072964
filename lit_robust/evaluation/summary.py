"""From per-sample results to the figures of an evaluation, each with its protocol and interval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from lit_robust.attacks import Attack
from lit_robust.evaluation.block import CLEAN
from lit_robust.evaluation.interval import wilson
from lit_robust.evaluation.protocol import describe

if TYPE_CHECKING:
    import pyarrow as pa

NEAR_TIE = 1e-4  # a smaller final margin may round to the other side in another batch shape
SCHEMA = 1


def summarise(
    table: pa.Table, attacks: Mapping[str, Attack], *, seconds: Mapping[str, float], protocol: Mapping[str, Any]
) -> dict[str, Any]:
    """The figures of an evaluation as plain JSON.

    Args:
        table: Per-sample results; see `store`.
        attacks: The attacks by name.
        seconds: Time that each attack took, over all processes.
        protocol: What holds for all figures: seed, block size, cascade and so on.

    Raises:
        RuntimeError: If a sample was counted twice under an attack, or not at all.
    """
    columns = {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}
    rows = {name: columns["attack"] == name for name in [CLEAN, *attacks]}
    index = columns["index"][rows[CLEAN]]
    for name, mask in rows.items():
        if len(np.unique(columns["index"][mask])) != mask.sum() or mask.sum() != len(index):
            raise RuntimeError(f"{name}: {mask.sum()} results for {len(index)} samples, some twice")

    figures = {}
    for name, attack in attacks.items():
        mask = rows[name]
        close = np.abs(columns["margin"][mask]) < NEAR_TIE
        found = columns["broken"][mask] & (columns["prediction"] == columns["label"])[mask]
        figures[name] = {
            "kind": "adversary" if attack.adversarial else "noise",
            "threat_model": str(attack.threat_model),
            **_share(~columns["broken"][mask]),
            "mean_distance_of_broken": float(columns["distance"][mask][found].mean()) if found.any() else None,
            "forwards": int(columns["forwards"][mask].sum()),
            "backwards": int(columns["backwards"][mask].sum()),
            "seconds": round(seconds.get(name, 0.0), 3),
            "near_ties": columns["index"][mask][close].tolist(),
            "attack": describe(attack),
        }

    worst = {}
    for threat in dict.fromkeys(str(a.threat_model) for a in attacks.values() if a.adversarial):
        members = [n for n, a in attacks.items() if a.adversarial and str(a.threat_model) == threat]
        # Blocks are written in one order for all attacks, so the masks line up sample by sample.
        broken = np.any([columns["broken"][rows[n]] for n in members], axis=0)
        worst[threat] = {"attacks": members, **_share(~broken)}
    return {
        "schema": SCHEMA,
        "clean": _share(~columns["broken"][rows[CLEAN]]),
        "attacks": figures,
        "worst_case": worst,
        "protocol": dict(protocol),
    }


def _share(right: np.ndarray[Any, np.dtype[np.bool_]]) -> dict[str, Any]:
    n, correct = len(right), int(right.sum())
    low, high = wilson(correct, n)
    return {"accuracy": correct / n if n else 0.0, "correct": correct, "n": n, "interval_95": [low, high]}
