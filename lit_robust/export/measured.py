"""What the finished tests of a run say of one checkpoint: accuracies, and the verdict of an audit."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from lit_robust.attacks import AutoAttack
from lit_robust.attacks.auto_attack import Version
from lit_robust.callbacks.robust_report import RESULTS
from lit_robust.errors import UserError
from lit_robust.evaluation.protocol import describe
from lit_robust.threat import ThreatModel
from lit_robust.unfinished import state_digest

_NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1", "l0": "L0"}  # as RobustBench spells them
_AUDIT = "audit.json"


@dataclass(frozen=True, kw_only=True)
class Robust:
    """A robust accuracy: the worst case of the attacks of one test in one threat model.

    Attributes:
        test: Name of the test.
        norm: Norm of the threat model.
        eps: Its radius, as it was written.
        clean: Share of right images without an attack, with count and interval.
        worst: The same for the worst case of all attacks.
        attacks: Each attack by name: its figures and settings.
        auto_attack: Version of AutoAttack and its share, if it was among them.
    """

    test: str
    norm: str
    eps: str
    clean: Mapping[str, Any]
    worst: Mapping[str, Any]
    attacks: Mapping[str, Mapping[str, Any]]
    auto_attack: tuple[str, Mapping[str, Any]] | None

    def plain(self) -> dict[str, Any]:
        """The figure with all that it takes to believe it, as plain JSON."""
        auto = self.auto_attack
        protocol = (
            f"the worst case of {', '.join(self.attacks)}, AutoAttack {auto[0]} among them"
            if auto
            else f"not AutoAttack: the worst case of {', '.join(self.attacks)}"
        )
        return {
            "Lp": _NORMS.get(self.norm, self.norm),
            "eps": self.eps,
            "bound": "at most",
            **{key: self.worst[key] for key in ("accuracy", "correct", "n", "interval_95")},
            "protocol": protocol,
            "attacks": {name: figure.get("attack") for name, figure in self.attacks.items()},
            "clean": dict(self.clean),
            "test": self.test,
        }


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What is known of a checkpoint.

    Attributes:
        robust: A figure for each threat model, the one to claim first: AutoAttack's, else that of the newest test.
        clean: The clean accuracy of the newest test, if there is one.
        clean_test: Name of that test.
        audit: The verdict of the newest audit, if there is one.
        others: Names of tests that are of other weights or cannot be read.
    """

    robust: tuple[Robust, ...]
    clean: Mapping[str, Any] | None
    clean_test: str | None
    audit: Mapping[str, Any] | None
    others: tuple[str, ...]


def measured(run: Path, stored: Mapping[str, Any]) -> Measured:
    """Reads the finished tests of a run that are of certain weights, the newest first.

    Args:
        run: Folder of the run.
        stored: The network's part of the checkpoint.
    """
    digest = state_digest(stored)
    files = sorted(run.glob(f"tests/*/{RESULTS}"), key=lambda path: path.stat().st_mtime, reverse=True)
    read = {path.parent.name: _read(path) for path in files}
    mine = {name: content for name, content in read.items() if content.get("weights") == digest and "clean" in content}
    found: dict[tuple[str, str], Robust] = {}
    for robust in (robust for name, content in mine.items() for robust in _robust(name, content)):
        known = found.get((robust.norm, robust.eps))
        if known is None or (robust.auto_attack is not None and known.auto_attack is None):
            found[robust.norm, robust.eps] = robust
    newest = next(iter(mine), None)
    return Measured(
        robust=tuple(sorted(found.values(), key=lambda robust: robust.auto_attack is None)),
        clean=None if newest is None else mine[newest]["clean"],
        clean_test=newest,
        audit=_audit(run, digest),
        others=tuple(name for name in read if name not in mine and not name.startswith("audit-")),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _robust(test: str, content: Mapping[str, Any]) -> Iterator[Robust]:
    for worst in content.get("worst_case", {}).values():
        attacks = {name: content["attacks"][name] for name in worst["attacks"]}
        threat = next((t for figure in attacks.values() if (t := _threat(figure.get("attack")))), None)
        if threat is None or threat.get("eps") is None:
            continue
        norm, eps = str(threat["norm"]), str(threat["eps"])
        yield Robust(
            test=test,
            norm=norm,
            eps=eps,
            clean=content["clean"],
            worst=worst,
            attacks=attacks,
            auto_attack=_auto_attack(norm, eps, attacks),
        )


def _threat(described: object) -> Mapping[str, Any] | None:
    """The threat model in the description of an attack, which may be made of others."""
    if not isinstance(described, Mapping):
        parts = described if isinstance(described, list) else []
        return next((found for part in parts if (found := _threat(part))), None)
    if described.get("class") == "ThreatModel":
        return described
    return next((found for part in described.values() if (found := _threat(part))), None)


def _auto_attack(norm: str, eps: str, attacks: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]] | None:
    """The version of AutoAttack whose members are all among the rows with the settings of that version, and its share.

    A member runs on what those before it left, so the share of the last is that of the whole.
    """
    for version in get_args(Version):
        try:
            whole = AutoAttack(threat=ThreatModel(eps, norm=norm), version=version)  # type: ignore[arg-type]
        except UserError:  # there is none in this norm
            continue
        members = {member: json.loads(json.dumps(describe(attack))) for member, attack in whole.members.items()}
        for name in {row.rpartition("/")[0] for row in attacks if "/" in row}:
            rows = [attacks.get(f"{name}/{member}", {}) for member in members]
            if [row.get("attack") for row in rows] == list(members.values()):
                return version, rows[-1]
    return None


def _audit(run: Path, digest: str) -> dict[str, Any] | None:
    files = sorted(run.glob(f"tests/*/{_AUDIT}"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in files:
        content = _read(path)
        if "verdict" in content and content.get("weights", digest) == digest:
            checks = {verdict: [f["check"] for f in content["findings"] if f["verdict"] == verdict] for verdict in _BAD}
            return {"verdict": content["verdict"], **checks, "test": path.parent.name}
    return None


_BAD = ("fail", "warn")
