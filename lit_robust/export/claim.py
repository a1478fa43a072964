"""A claim in the manner of RobustBench's model files: what a model is, what was measured, and which rules it breaks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lit_robust import __version__, runs
from lit_robust.export.entry_rules import DETERMINISTIC
from lit_robust.export.measured import Measured
from lit_robust.export.subject import Subject

CLAIM = "claim.json"


def claim(subject: Subject, rules: Mapping[str, Mapping[str, Any]], found: Measured) -> dict[str, Any]:
    """The claim as plain JSON. The first entries are called as in RobustBench, with percentages as strings.

    Args:
        subject: The network.
        rules: The rules of entry, as measured.
        found: What its tests say.
    """
    best = found.robust[0] if found.robust else None
    auto = next((robust for robust in found.robust if robust.auto_attack is not None), None)
    parameters = list(subject.network.parameters())
    return {
        "name": subject.run.resolve().parent.name,
        "dataset": runs.data_name(subject.config["data"]),
        "Lp": None if best is None else best.plain()["Lp"],
        "eps": None if best is None else best.eps,
        "clean_acc": _percent(best.clean if best else found.clean),
        "autoattack_acc": _percent(auto.auto_attack[1] if auto and auto.auto_attack else None),
        "additional_data": additional_data(subject.spec),
        "number_forward_passes": 1,
        "architecture": architecture(subject.spec),
        "authors": "",
        "venue": "",
        "link": "",
        "number_of_parameters": sum(p.numel() for p in parameters),
        "number_of_trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
        "training": subject.config["model"]["class_path"].rpartition(".")[2],
        "checkpoint": subject.checkpoint.name,
        "version": {"lit_robust": __version__, "torch": torch.__version__},
        "robust_accuracy": None if best is None else best.plain(),
        "other_threat_models": [robust.plain() for robust in found.robust[1:]],
        "clean_accuracy": None if found.clean is None else {**found.clean, "test": found.clean_test},
        "audit": None if found.audit is None else dict(found.audit),
        "entry_rules": {name: dict(rule) for name, rule in rules.items()},
        "breaks": [name for name, rule in rules.items() if rule["broken"]],
        "notes": _notes(subject, rules, found),
    }


def architecture(spec: Any) -> str:  # noqa: ANN401 - a network's config
    """Class names of a network and of the networks that it is made of: `Pipeline(PolarizingFrontEnd, SmallCNN)`."""
    name = str(spec["class_path"]).rpartition(".")[2]
    inner = [architecture(part) for part in _networks(spec.get("init_args") or {})]
    return f"{name}({', '.join(inner)})" if inner else name


def additional_data(node: Any) -> bool | None:  # noqa: ANN401 - a network's config, or a part of it
    """Whether the network began with weights of other data: true for torchvision's, None where nobody knows."""
    if isinstance(node, list):
        return _any([additional_data(part) for part in node])
    if not isinstance(node, Mapping):
        return False
    path, options = str(node.get("class_path", "")), node.get("init_args") or {}
    own = bool(path.startswith("torchvision.") and options.get("weights"))
    unknown = None if path.rpartition(".")[2] == "FromFile" else False
    return _any([own, unknown, *(additional_data(part) for part in node.values())])


def _any(parts: list[bool | None]) -> bool | None:
    return True if True in parts else None if None in parts else False


def _networks(node: Any) -> list[Mapping[str, Any]]:  # noqa: ANN401 - a part of a config
    if isinstance(node, list):
        return [found for part in node for found in _networks(part)]
    if not isinstance(node, Mapping):
        return []
    return [node] if "class_path" in node else [found for part in node.values() for found in _networks(part)]


def _percent(share: Mapping[str, Any] | None) -> str | None:
    return None if share is None else f"{100 * share['accuracy']:.2f}"


def _notes(subject: Subject, rules: Mapping[str, Mapping[str, Any]], found: Measured) -> list[str]:
    notes = []
    if not found.robust:
        notes.append("no finished test of these weights has an attack with a radius: nothing is claimed of robustness")
    elif found.robust[0].auto_attack is None:
        notes.append("AutoAttack was not run; it may find more than the attacks that were")
    if found.robust and found.robust[0].worst["n"] < 10_000:
        notes.append(f"measured on {found.robust[0].worst['n']:,} images; RobustBench takes 10,000 of CIFAR")
    if found.audit is None:
        notes.append("not audited: python -m lit_robust audit says whether the figure deserves belief")
    elif found.audit["verdict"] != "pass":
        which = ", ".join(found.audit["fail"] or found.audit["warn"])
        notes.append(f"the audit says {str(found.audit['verdict']).upper()}: {which}")
    if rules[DETERMINISTIC]["broken"]:
        notes.append("the network is random; one forward pass is one draw")
    if not subject.real:
        notes.append("the test images are not on this machine; rules of entry and agreement were tried on random ones")
    if found.others:
        notes.append(f"tests of other weights, or unreadable, were left out: {', '.join(found.others)}")
    return notes
