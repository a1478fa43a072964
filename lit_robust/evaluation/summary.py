"""From per-sample results to the figures of an evaluation, each with its protocol and interval."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lit_robust.attacks import Attack
from lit_robust.attacks.minimum_norm import counted_in, minimum_norm
from lit_robust.evaluation.interval import wilson
from lit_robust.evaluation.minimum_norms import Column, minimum_norms
from lit_robust.evaluation.protocol import describe
from lit_robust.evaluation.store import SCHEMA
from lit_robust.evaluation.verdict import CLEAN

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
    cascades: Collection[str] = (),
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
        cascades: Names of attacks in a cascade; what minimum-norm attacks with a radius found there, where the first
            adversarial within it ends the search, says nothing of norms.

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
        radius, nearest = counted_in(attack).eps is not None, minimum_norm(attack)
        falsified = name in cascades and radius
        figures[name] = {
            "kind": "adversary" if attack.adversarial else "noise",
            "threat_model": str(counted_in(attack)),
            **({"bound": "at most"} if attack.adversarial else {}),
            **attack_figures(
                {key: column[mine] for key, column in columns.items()},
                radius=radius,
                norm=None if nearest is None or falsified else nearest.norm,
            ),
            "seed": protocol.get("seed"),
            "seconds": round(seconds.get(name, 0.0), 3),
            "attack": describe(attack),
        }

    balls = {name: counted_in(attack) for name, attack in attacks.items() if attack.adversarial}
    threats = dict.fromkeys(ball for ball in balls.values() if ball.eps is not None)
    members = {str(threat): [name for name, ball in balls.items() if ball == threat] for threat in threats}
    before, right = ({name: columns[key][rows[name]] for name in balls} for key in ("right_before", "right"))
    return {
        "schema": SCHEMA,
        "clean": share(columns["right"][rows[CLEAN]]),
        "attacks": figures,
        "worst_case": worst_cases(members, before, right),
        "protocol": dict(protocol),
    }


def attack_figures(samples: Mapping[str, Column], *, radius: bool, norm: str | None) -> dict[str, Any]:
    """The figures of one attack that follow from its samples alone.

    Args:
        samples: Columns of the attack's rows, (N,) each; see `store`.
        radius: Whether the share that stays right says something: the attack has a radius.
        norm: The norm that a minimum-norm attack measured, or None for no figures of norms.
    """
    right, broken, margin = samples["prediction"] == samples["label"], samples["broken"], samples["margin"]
    found = broken & right
    # A nearest adversarial beyond the radius does not count as broken, but the final image is wrong all the same.
    norms = None if norm is None else minimum_norms(samples["distance"], broken | (margin < 0), right)
    return {
        **(share(samples["right"]) if radius else {}),
        **({} if norms is None else {"minimum_norm": {"norm": norm, **norms}}),
        "mean_distance_of_broken": float(samples["distance"][found].mean()) if found.any() else None,
        "forwards": int(samples["forwards"].sum()),
        "backwards": int(samples["backwards"].sum()),
        "found": int(found.sum()),
        "found_in_8_bit": int((found & samples["survives_8_bit"]).sum()),
        "near_ties": samples["index"][np.abs(margin) < NEAR_TIE].tolist(),
    }


def worst_cases(
    members: Mapping[str, Sequence[str]], before: Mapping[str, Column], right: Mapping[str, Column]
) -> dict[str, Any]:
    """The figures of each threat model under the strongest of its adversaries for each sample.

    Args:
        members: Names of the adversaries of each threat model.
        before: `right_before` of each adversary, (N,) in one order of the samples.
        right: `right` of each, likewise.
    """
    worst = {}
    for threat, names in members.items():
        counted = strongest([before[name] for name in names], [right[name] for name in names])
        worst[threat] = {"attacks": list(names), "bound": "at most", **share(counted)}
    return worst


def strongest(before: Sequence[Column], right: Sequence[Column]) -> Column:
    """How right each sample is under the strongest of several attacks, (N,).

    It is chosen by some draws of a random network and counted by others.

    Args:
        before: `right_before` under each attack, (N,).
        right: `right` under each, likewise.
    """
    chosen = np.stack(before).argmin(0)
    counted: Column = np.take_along_axis(np.stack(right), chosen[None], 0)[0]
    return counted


def share(right: Column) -> dict[str, Any]:
    """The share of samples that are right, with its interval, from how right each is, (N,) in [0, 1]."""
    n, total = len(right), round(float(right.sum()), 6)
    correct: float = int(total) if total.is_integer() else total  # a random network's samples are right in part
    low, high = wilson(correct, n)
    return {"accuracy": correct / n if n else 0.0, "correct": correct, "n": n, "interval_95": [low, high]}
