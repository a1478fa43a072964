"""The ball that a run's robust accuracy is quoted for, read from configs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lit_robust import radius
from lit_robust.errors import UserError
from lit_robust.threat import ThreatModel

_NORMS = ("linf", "l2", "l1")


def threat_of(configs: Sequence[Path]) -> ThreatModel:
    """The threat model of the first adversary among the evaluation's attacks.

    Args:
        configs: Configs, each laid over those before it; the last that lists attacks counts.

    Raises:
        UserError: If none of these attacks has a radius in L∞, L2 or L1.
    """
    for path in reversed(configs):
        content = yaml.safe_load(path.read_text())
        evaluation = content.get("evaluation") if isinstance(content, Mapping) else None
        attacks = evaluation.get("attacks") if isinstance(evaluation, Mapping) else None
        for threat in _threats(attacks or {}):
            if threat.norm in _NORMS and threat.eps is not None and threat.exact > 0:
                return threat
    raise UserError(
        "no attack in the run's config has a radius in linf, l2 or l1; say which one the robust accuracy is quoted at: "
        "--eps 8/255, and --norm l2 if it is not linf"
    )


def _threats(node: object) -> Iterator[ThreatModel]:
    """All threat models with a radius in a part of a config, from the outside in, in order."""
    if isinstance(node, Mapping):
        threat = node.get("threat")
        if isinstance(threat, Mapping) and threat.get("eps") is not None:
            yield _threat(threat)
        for value in node.values():
            yield from _threats(value)
    elif isinstance(node, list):
        for value in node:
            yield from _threats(value)


def _threat(threat: Mapping[str, Any]) -> ThreatModel:
    given = threat.get("init_args", threat)
    return ThreatModel(radius.parse(given["eps"]), given.get("norm", "linf"))
