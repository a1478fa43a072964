"""What attacks answer on two images in two steps: at radius 0 the clean image, and never one outside their ball."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from lit_robust import sampling
from lit_robust.attacks import Attack, MinimumNormAttack
from lit_robust.attacks.at_radius import at_radius
from lit_robust.attacks.decision import DecisionAttack
from lit_robust.doctor.attack_parts import inside, parts
from lit_robust.doctor.diagnosis import Diagnosis, error, ok, skipped
from lit_robust.doctor.subject import Subject
from lit_robust.errors import UserError
from lit_robust.modes import network_mode

_IMAGES = 2
_SMALL = {"steps": 2, "queries": 20, "n": 2, "draws": 2, "iterations": 2, "searches": 2, "restarts": 1, "targets": 1}
_TOLERANCE = 1e-6


def radius_zero(subject: Subject) -> Iterator[Diagnosis]:
    """Each attack with radius 0 and few steps: image and prediction must be the clean ones."""
    tried, fine = [], True
    for name, attack in _attacks(subject):
        if isinstance(attack, MinimumNormAttack):  # whose eps only says what counts
            continue
        try:
            zero = at_radius(attack, 0)
        except UserError:
            continue  # an attack of another radius alone, or of none
        x, y, index = _images(subject)
        x_adv = _run(zero, subject.network, x, y, index)
        tried.append(name)
        moved = float((x_adv - x).abs().max())
        if not moved <= _TOLERANCE:  # so that NaN is caught
            fine = False
            yield error(
                f"{name}: {type(attack).__name__} with radius 0 changes pixels by {moved:.3g}",
                "project onto the ball after every change, the start too (threat.project)",
            )
        elif not torch.equal(subject.ask(x_adv, index).argmax(1), subject.ask(x, index).argmax(1)):
            fine = False
            yield error(
                f"{name}: the prediction at radius 0 is not the clean one",
                "is the network put into eval mode, and does it draw its noise by samples?",
            )
    if not tried:
        yield skipped("no attack has a radius")
    elif fine:
        yield ok(f"{len(tried)} attacks give the clean image and its prediction back")


def in_the_ball(subject: Subject) -> Iterator[Diagnosis]:
    """Each attack with few steps: its answers must be inside its threat model."""
    tried, fine = [], True
    for name, attack in _attacks(subject):
        x, y, index = _images(subject)
        x_adv = _run(attack, subject.network, x, y, index)
        tried.append(name)
        threat = attack.threat_model
        if x_adv.shape != x.shape or not bool(threat.contains(x_adv, x).all()):
            fine = False
            far = float(threat.distance(x_adv, x).max()) if x_adv.shape == x.shape else float("nan")
            yield error(
                f"{name}: {type(attack).__name__} answers at distance {far:.4g}, pixels from {float(x_adv.min()):.4g} "
                f"to {float(x_adv.max()):.4g}, which is outside {threat}",
                "project onto the ball and the box before answering (threat.project)",
            )
    if not tried:
        yield skipped("no attack")
    elif fine:
        yield ok(f"{len(tried)} attacks answer inside their threat models")


def _attacks(subject: Subject) -> Iterator[tuple[str, Attack]]:
    """What the attacks are made of, cut to a few steps, each once; those that ask decisions alone are left out."""
    seen: set[str] = set()
    for name, attack in subject.attacks.items():
        for part in parts(attack):
            small = _cut(part)
            if isinstance(part, DecisionAttack) or str(small) in seen or part.targeted:
                continue
            seen.add(str(small))
            yield name, small


def _cut(attack: Attack) -> Attack:
    """An attack with few steps; one that cannot be built with so few stays as it is."""
    if next(inside(attack), None) is not None:
        return attack
    whole: Any = attack
    counts = {f.name: getattr(attack, f.name) for f in fields(attack) if f.name in _SMALL}
    smaller = {k: min(v, _SMALL[k]) for k, v in counts.items() if isinstance(v, int) and not isinstance(v, bool)}
    try:
        other: Attack = replace(whole, **smaller)
    except UserError:
        return attack
    return other


def _images(subject: Subject) -> tuple[Tensor, Tensor, Tensor]:
    x, y, index = subject.few()
    return x[:_IMAGES].clone(), y[:_IMAGES], index[:_IMAGES]


def _run(attack: Attack, network: nn.Module, x: Tensor, y: Tensor, index: Tensor) -> Tensor:
    with network_mode(network, train=False), torch.random.fork_rng(devices=[]):
        return attack(network, x, y, key=sampling.keys(index))
