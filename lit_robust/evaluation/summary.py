"""From per-sample results to the figures of an evaluation, each with its protocol and interval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from lit_robust.attacks import Attack
from lit_robust.evaluation.block import CLEAN
from lit_robust.evaluation.interval import wilson
from lit_robust.evaluation.protocol import describe
from lit_robust.evaluation.store import SCHEMA

if TYPE_CHECKING:
    import pyarrow as pa

NEAR_TIE = 1e-4  # a smaller final margin may round to the other side in another batch shape


def summarise(
    table: pa.Table,
    attacks: Mapping[str, Attack],
    *,
    seconds: Mapping[str, float],
    protocol: Mapping[str, Any],
    samples: int | None = None,
) -> dict[str, Any]:
    """The figures of an evaluation as plain JSON.

    Args:
        table: Per-sample results; see `store`.
        attacks: The attacks by name.
        seconds: Time that each attack took, over all processes.
        protocol: What holds for all figures: seed, block size, cascade and so on.
        samples: How many samples were measured; None takes those that the table holds.

    Raises:
        RuntimeError: If a sample was counted twice under an attack, or not at all.
    """
    columns = {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}
    order = np.argsort(columns["index"], kind="stable")
    rows = {name: order[columns["attack"][order] == name] for name in [CLEAN, *attacks]}
    expected = np.unique(columns["index"])
    if samples is not None and len(expected) != samples:
        raise RuntimeError(f"{len(expected)} of {samples} samples have results: is the folder shared by all processes?")
    for name, mine in rows.items():
        if not np.array_equal(columns["index"][mine], expected):
            raise RuntimeError(f"{name}: {len(mine)} results for {len(expected)} samples, some missing or twice")

    figures = {}
    for name, attack in attacks.items():
        mine = rows[name]
        close = np.abs(columns["margin"][mine]) < NEAR_TIE
        found = columns["broken"][mine] & (columns["prediction"] == columns["label"])[mine]
        figures[name] = {
            "kind": "adversary" if attack.adversarial else "noise",
            "threat_model": str(attack.threat_model),
            **({"bound": "at most"} if attack.adversarial else {}),
            **_share(~columns["broken"][mine]),
            "seed": protocol.get("seed"),
            "mean_distance_of_broken": float(columns["distance"][mine][found].mean()) if found.any() else None,
            "forwards": int(columns["forwards"][mine].sum()),
            "backwards": int(columns["backwards"][mine].sum()),
            "seconds": round(seconds.get(name, 0.0), 3),
            "near_ties": columns["index"][mine][close].tolist(),
            "attack": describe(attack),
        }

    worst = {}
    for threat in dict.fromkeys(a.threat_model for a in attacks.values() if a.adversarial):
        members = [n for n, a in attacks.items() if a.adversarial and a.threat_model == threat]
        broken = np.any([columns["broken"][rows[n]] for n in members], axis=0)
        worst[str(threat)] = {"attacks": members, "bound": "at most", **_share(~broken)}
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
