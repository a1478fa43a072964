"""From per-sample results to the figures of an evaluation, each with its protocol and interval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from lit_robust.attacks import Attack
from lit_robust.attacks.minimum_norm import counted_in, minimum_norm
from lit_robust.evaluation.block import CLEAN
from lit_robust.evaluation.interval import wilson
from lit_robust.evaluation.minimum_norms import Column, minimum_norms
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

    An attack has the share of samples that stay right. A minimum-norm attack has `minimum_norm` besides, and that share
    only with a radius: what it breaks at any distance says nothing.

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
            "threat_model": str(counted_in(attack)),
            **({"bound": "at most"} if attack.adversarial else {}),
            **({} if counted_in(attack).eps is None else _share(~columns["broken"][mine])),
            **_norms(attack, {key: column[mine] for key, column in columns.items()}),
            "seed": protocol.get("seed"),
            "mean_distance_of_broken": float(columns["distance"][mine][found].mean()) if found.any() else None,
            "forwards": int(columns["forwards"][mine].sum()),
            "backwards": int(columns["backwards"][mine].sum()),
            "seconds": round(seconds.get(name, 0.0), 3),
            "near_ties": columns["index"][mine][close].tolist(),
            "attack": describe(attack),
        }

    worst = {}
    balls = {name: counted_in(attack) for name, attack in attacks.items() if attack.adversarial}
    for threat in dict.fromkeys(ball for ball in balls.values() if ball.eps is not None):
        members = [name for name, ball in balls.items() if ball == threat]
        broken = np.any([columns["broken"][rows[n]] for n in members], axis=0)
        worst[str(threat)] = {"attacks": members, "bound": "at most", **_share(~broken)}
    return {
        "schema": SCHEMA,
        "clean": _share(~columns["broken"][rows[CLEAN]]),
        "attacks": figures,
        "worst_case": worst,
        "protocol": dict(protocol),
    }


def _norms(attack: Attack, samples: Mapping[str, Column]) -> dict[str, Any]:
    nearest = minimum_norm(attack)
    if nearest is None:
        return {}
    # A nearest adversarial beyond the radius does not count as broken, but the final image is wrong all the same.
    found = samples["broken"] | (samples["margin"] < 0)
    right = samples["prediction"] == samples["label"]
    return {"minimum_norm": {"norm": nearest.norm, **minimum_norms(samples["distance"], found, right)}}


def _share(right: Column) -> dict[str, Any]:
    n, correct = len(right), int(right.sum())
    low, high = wilson(correct, n)
    return {"accuracy": correct / n if n else 0.0, "correct": correct, "n": n, "interval_95": [low, high]}
