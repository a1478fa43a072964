"""Settings of attacks: radii and step sizes in the wrong units, and searches too short to reach their radius."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lit_robust import radius
from lit_robust.attacks import PGD, Attack, GaussianNoise, UniformNoise
from lit_robust.attacks.minimum_norm import counted_in
from lit_robust.doctor.attack_parts import parts
from lit_robust.doctor.diagnosis import Diagnosis, error, ok, refused, skipped, warning
from lit_robust.doctor.subject import Subject
from lit_robust.errors import UserError
from lit_robust.threat import ThreatModel

_COMPARED = 24  # images whose distances are looked at


def radii(subject: Subject) -> Iterator[Diagnosis]:
    """Radii of grey levels, such as 8 for 8/255, and balls of images of different classes that overlap.

    `ThreatModel` refuses an L∞ radius above 1 and one above the diameter of the box by itself. Below that a radius is
    compared with the distance between images: no classifier is right on all of two overlapping balls of different
    classes (Yang et al., 2020, definition of r-separation).
    """
    threats: dict[ThreatModel, list[str]] = {}
    for name, attack in subject.attacks.items():
        threat = counted_in(attack)
        if threat.eps is not None and threat.norm != "box":
            threats.setdefault(threat, []).append(name)
    if not threats:
        yield skipped("no attack has a radius")
        return
    fine = True
    for threat, names in threats.items():
        try:
            threat.check_shape(subject.data.image_shape)
        except UserError as mistake:
            fine = False
            yield refused(UserError(f"{names[0]}: {mistake}"))
            continue
        apart = _separation(threat, *subject.batch[:2])
        if 2 * threat.radius > apart:
            fine = False
            yield warning(
                f"{_named(names)}: {threat} is more than half of {apart:.3g}, the median distance to the nearest image "
                "of another class, so that no classifier can be robust on most images",
                f"radii are in units of the [0, 1] pixel range: is {radius.show(threat.exact)} meant over 255?",
            )
    if fine:
        yield ok(", ".join(map(str, threats)))


def step_sizes(subject: Subject) -> Iterator[Diagnosis]:
    """Step sizes of grey levels, such as 2 for 2/255, and steps that cross the whole ball."""
    looked, fine = False, True
    for name, attack in _searches(subject):
        looked = True
        eps, step = float(attack.threat.exact), float(radius.parse_step(attack.step_size, attack.threat.exact))
        if eps == 0:
            continue
        if attack.threat.norm == "linf" and step >= 1:
            fine = False
            yield error(
                f"{name}: a step of {step:g} crosses the whole range of pixels",
                f"step sizes are in units of the [0, 1] pixel range, or of the radius (eps/4): is {step:g}/255 meant?",
            )
        elif step > 2 * eps and attack.steps > 1:
            fine = False
            yield warning(
                f"{name}: a step of {step:.3g} is more than the diameter of the ball of radius {eps:.3g}: every "
                "iterate lies on its border, and the search jumps between opposite sides",
                "take a smaller step, such as eps/4 or 2.5*eps/steps",
            )
    yield from _rest(looked, fine, "steps are no longer than the ball is wide")


def reach(subject: Subject) -> Iterator[Diagnosis]:
    """Searches of steps · step size below eps, which cannot get from the image to the border of the ball.

    From a random start in L∞ a pixel at distance u to the border that its gradient points to, uniform in [0, 2 eps],
    gets there if u is at most steps · step size; from the image, and from a small Gaussian start, u is eps.
    """
    looked, fine = False, True
    for name, attack in _searches(subject):
        if attack.steps == 0 or attack.threat.exact == 0:  # a random point, which is no search
            continue
        looked = True
        step = radius.parse_step(attack.step_size, attack.threat.exact)
        way, eps = attack.steps * step, attack.threat.exact
        if way < eps:
            fine = False
            yield warning(
                f"{name}: {attack.steps} steps of {radius.show(step)} go {radius.show(way)} at most, and the radius is "
                f"{radius.show(eps)}: {_consequence(attack, float(way / eps))}",
                f"take {-(-eps // step)} steps or more, or longer ones (2.5*eps/{attack.steps})",
            )
    yield from _rest(looked, fine, "steps · step size is at least eps")


def _consequence(attack: PGD, share: float) -> str:
    if attack.start != "random":
        return "from the image it cannot reach the border of the ball, and the figure is that of a smaller radius"
    if attack.threat.norm == "linf":
        return f"from a random start {share / 2:.0%} of the pixels can reach the border that their gradient points to"
    return "from a random start it cannot even get to the other half of the ball"


def _rest(looked: bool, fine: bool, found: str) -> Iterator[Diagnosis]:
    if not looked:
        yield skipped("no attack has steps of a given size")
    elif fine:
        yield ok(found)


def _searches(subject: Subject) -> Iterator[tuple[str, PGD]]:
    """Attacks with a step size and a ball, each once, by the name of what they are part of."""
    seen: set[str] = set()
    for name, attack in subject.attacks.items():
        for part in parts(attack):
            known = f"{name}: {part}"
            if isinstance(part, PGD) and part.threat.norm != "box" and known not in seen:
                seen.add(known)
                yield name, part


def noise_levels(subject: Subject) -> Iterator[Diagnosis]:
    """Standard deviations and widths of noise in grey levels, such as 8 for 8/255."""
    noises = {name: _level(part) for name, attack in subject.attacks.items() for part in parts(attack)}
    levels = {name: level for name, level in noises.items() if level is not None}
    wrong = {name: level for name, level in levels.items() if level > 1}
    for name, level in wrong.items():
        yield error(
            f"{name}: noise of {level:g} is wider than the range of pixels",
            f"noise is in units of the [0, 1] pixel range: is {level:g}/255 meant?",
        )
    if not levels:
        yield skipped("no noise")
    elif not wrong:
        yield ok(", ".join(f"{level:g}" for level in levels.values()))


def _level(attack: Attack) -> float | None:
    if isinstance(attack, GaussianNoise):
        return float(radius.parse(attack.sigma, name="sigma"))
    return float(radius.parse(attack.amplitude)) if isinstance(attack, UniformNoise) else None


def _separation(threat: ThreatModel, x: Tensor, y: Tensor) -> float:
    """Median over images of the distance to the nearest image of another class; infinite if there is one class."""
    rows = torch.linspace(0, len(x) - 1, min(_COMPARED, len(x))).long()
    x, y = x[rows].float(), y[rows]
    nearest = []
    for image, label in zip(x, y, strict=True):
        others = x[y != label]
        if len(others):
            nearest.append(threat.distance(others, image.expand_as(others)).min())
    return float(torch.stack(nearest).median()) if nearest else float("inf")


def _named(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
