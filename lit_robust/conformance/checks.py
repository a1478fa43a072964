"""The checks. Each takes an attack and a norm, and raises `ConformanceError` with what is wrong in words."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lit_robust.conformance.closed_form import largest_rise, nearest_distance
from lit_robust.conformance.contestant import REFUSALS, Contestant
from lit_robust.conformance.models import Lottery, TwoSided, curved, images, period, weight, with_modes
from lit_robust.losses import margin
from lit_robust.threat import NAMES, LpNorm, ThreatModel

NORMS: tuple[LpNorm, ...] = ("linf", "l2", "l1")
EPS: dict[LpNorm, float] = {"linf": 0.1, "l2": 0.3, "l1": 1.0}  # the box plays no part for images near its middle
LARGE: dict[LpNorm, float] = {"linf": 0.5, "l2": 4.0, "l1": 3.0}  # the box cuts the ball
_N, _ALONE = 8, 3  # images of a batch, and how many of them are attacked alone too
_ROUNDING = 1e-5  # of distances and pixels in float32, in units of max(1, eps)


class ConformanceError(AssertionError):
    """What an attack does wrong."""


class NotApplicableError(Exception):
    """Why a check says nothing about an attack."""


def reaches_the_optimum(attack: Contestant, norm: LpNorm, tolerance: float = 0.05) -> None:
    """On a linear model, with the box out of reach: margins fall by eps times the dual norm of the slope.

    For an attack that looks for the nearest adversarial, its distance is the margin over the dual norm.

    Args:
        attack: The attack.
        norm: The norm.
        tolerance: Share of the fall that may be missing, or of the distance that may be too much.
    """
    _linear(attack, norm, tolerance, cut=False, negative=False)


def reaches_the_optimum_in_the_box(attack: Contestant, norm: LpNorm, tolerance: float = 0.05) -> None:
    """The same where the box cuts the ball: half of the pixels are 0 or 1, and eps is large."""
    _linear(attack, norm, tolerance, cut=True, negative=False)


def manages_negative_logits(attack: Contestant, norm: LpNorm, tolerance: float = 0.05) -> None:
    """The same where all logits are negative, and have a slope in common that changes no margin."""
    _linear(attack, norm, tolerance, cut=False, negative=True)


def stays_inside(attack: Contestant, norm: LpNorm, tolerance: float = 0.05) -> None:
    """Answers are images of the same shape, in the ball and in [0, 1], at a small and a large eps."""
    del tolerance  # rounding alone
    x, model = images(_N, cut=True), with_modes()
    y = _predicted(model, x)
    for eps in (EPS[norm], LARGE[norm]):
        threat = ThreatModel(eps, norm)
        x_adv = attack.run(model, x.clone(), y.clone(), threat)
        _is_image(x_adv, x)
        out = float((x_adv.detach().double() - 0.5).abs().max()) - 0.5
        if out > _ROUNDING:
            raise ConformanceError(f"{threat}: pixels leave [0, 1] by up to {out:.3g}; clamp after every step")
        if not attack.nearest(threat):
            distance = float(threat.distance(x_adv.detach(), x).max())
            if distance > eps + _ROUNDING * max(1.0, eps):
                raise ConformanceError(
                    f"{threat}: an answer is {distance:.4g} from its image in {NAMES[norm]}, outside the ball of "
                    f"{eps:g}; project each sample on its own, after the last step too"
                )


def treats_each_sample_alone(attack: Contestant, norm: LpNorm, tolerance: float = 0.05) -> None:
    """A sample gets the same answer alone, among eight, and in any order."""
    order, rows = torch.tensor([5, 2, 7, 0, 3, 6, 1, 4]), [slice(i, i + 1) for i in range(_ALONE)]
    threat = ThreatModel(EPS[norm], norm)
    if attack.keyed:
        model, x = curved(), images(_N, cut=True).double()
        y, index = _predicted(model, x), torch.arange(_N)
        together = attack.run(model, x, y, threat, index=index).detach()
        alone = torch.cat([attack.run(model, x[r], y[r], threat, index=index[r]).detach() for r in rows])
        shuffled = attack.run(model, x[order], y[order], threat, index=index[order]).detach()[order.argsort()]
        allowed = 1e-6 * max(1.0, threat.radius)
        gaps = [(a - b).flatten(1).abs().amax(1) for a, b in ((alone, together[:_ALONE]), (shuffled, together))]
    else:  # random starts differ, so margins on a linear model are compared, beyond what another seed changes
        linear, x, y = _linear_problem(attack, norm, cut=False, negative=False)
        together, reseeded = (_after(attack, linear, x, y, threat, seed=seed) for seed in (0, 1))
        alone = torch.cat([_after(attack, linear, x[r], y[r], threat) for r in rows])
        shuffled = _after(attack, linear, x[order], y[order], threat)[order.argsort()]
        allowed = tolerance * float(_best(linear, x, y, threat).amin()) + 2 * float((together - reseeded).abs().max())
        gaps = [(alone - together[:_ALONE]).abs(), (shuffled - together).abs()]
    for gap, how in zip(gaps, ("alone than among eight", "in another order of the batch"), strict=True):
        if bool((gap > allowed).any()):
            raise ConformanceError(
                f"{threat}: a sample gets another answer {how} (differs by up to {float(gap.max()):.3g}); norms, means "
                "or stopping rules are taken over the batch instead of each sample, or its noise depends on its place"
            )


def gives_the_image_for_eps_0(attack: Contestant, norm: LpNorm, tolerance: float = 0.05) -> None:
    """With a ball of radius 0 the answer is the image itself, without NaN."""
    del tolerance  # nothing may differ
    threat = ThreatModel(0, norm)
    if attack.nearest(ThreatModel(EPS[norm], norm)):
        raise NotApplicableError("it looks for the nearest adversarial, at any distance")
    x, model = images(_N, cut=True), with_modes()
    x_adv = attack.run(model, x.clone(), _predicted(model, x), threat)
    _is_image(x_adv, x)
    moved = float((x_adv.detach() - x).abs().max())
    if moved > 1e-6:
        raise ConformanceError(f"eps 0 moves pixels by up to {moved:.3g}; a start or a step ignores eps")


def restarts_never_raise_accuracy(attack: Contestant, norm: LpNorm, tolerance: float = 0.05) -> None:
    """What one run breaks, more restarts break too, on a model where a run is a lottery."""
    del tolerance  # a sample is broken or not
    eps = EPS[norm]
    threat, model = ThreatModel(eps, norm), Lottery(period(eps, norm))
    x = images(24, cut=False)
    y = _predicted(model, x)
    broken = {}
    for n in (1, 4):
        try:
            x_adv = attack.run(model, x.clone(), y.clone(), threat, restarts=n).detach()
        except REFUSALS as error:
            raise NotApplicableError(str(error)) from error
        within = threat.distance(x_adv, x) <= eps + _ROUNDING
        broken[n] = (margin(model(x_adv).detach(), y) < 0) & within
    lost = int((broken[1] & ~broken[4]).sum())
    if lost:
        raise ConformanceError(
            f"{threat}: {lost} of {int(broken[1].sum())} images that one run breaks are right again after 4; keep what "
            "earlier restarts found, for each sample (is a mask inverted with ~ on integers?)"
        )


def leaves_the_model_as_it_was(attack: Contestant, norm: LpNorm, tolerance: float = 0.05) -> None:
    """Modes, parameters, statistics, gradients, gradient flags and the given images are as before."""
    del tolerance  # nothing may differ
    threat = ThreatModel(EPS[norm], norm)
    for train in (False, True):
        model, x = with_modes().train(train), images(_N, cut=True)
        y = _predicted(with_modes(), x)
        given, labels = x.clone(), y.clone()
        state = {name: value.clone() for name, value in model.state_dict().items()}
        attack.run(model, given, labels, threat)
        modes = [name or "the model" for name, module in model.named_modules() if module.training != train]
        parameters = dict(model.named_parameters())
        # In train mode batch normalisation counts every forward pass, which is the caller's choice.
        compared = parameters if train else model.state_dict()
        changed = [name for name in compared if not torch.equal(model.state_dict()[name], state[name])]
        problems = {
            f"was in {'train' if train else 'eval'} mode and is in the other one": modes,
            "has other weights or statistics": changed,
            "has gradients left over (take torch.autograd.grad in the image alone)": [
                name for name, p in parameters.items() if p.grad is not None
            ],
            "no longer learns (requires_grad is off)": [n for n, p in parameters.items() if not p.requires_grad],
            "was written into": [name for name, a, b in (("x", given, x), ("y", labels, y)) if not torch.equal(a, b)],
        }
        for what, names in problems.items():
            if names:
                raise ConformanceError(f"{threat}: {', '.join(names[:3])} {what} after the attack")


def repeats_itself_by_seed(attack: Contestant, norm: LpNorm, tolerance: float = 0.05) -> None:
    """The same seed gives the same answer; an `Attack` does not touch the global generator either."""
    del tolerance  # nothing may differ
    model, x = curved(), images(_N, cut=True).double()
    y, threat = _predicted(model, x), ThreatModel(EPS[norm], norm)
    answers, drew = [], False
    for seed in (11, 12):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        answers.append(attack.run(model, x, y, threat, seed=0).detach())
        drew = drew or not torch.equal(before, torch.get_rng_state())
    if attack.keyed and drew:
        raise ConformanceError(
            f"{threat}: it draws from torch's global generator, so a sample's result depends on what ran before; draw "
            "from `noise` instead"
        )
    if not torch.equal(answers[0], answers[1]):
        raise ConformanceError(f"{threat}: the same seed gives two answers; some random numbers have no seed")


Check = Callable[[Contestant, LpNorm, float], None]
CHECKS: tuple[Check, ...] = (
    reaches_the_optimum,
    reaches_the_optimum_in_the_box,
    manages_negative_logits,
    stays_inside,
    treats_each_sample_alone,
    gives_the_image_for_eps_0,
    restarts_never_raise_accuracy,
    leaves_the_model_as_it_was,
    repeats_itself_by_seed,
)


def _linear(attack: Contestant, norm: LpNorm, tolerance: float, *, cut: bool, negative: bool) -> None:
    model, x, y = _linear_problem(attack, norm, cut=cut, negative=negative)
    threat = ThreatModel((LARGE if cut else EPS)[norm], norm)
    hint = "; is the margin's largest other logit taken over logits masked with 0?" if negative else ""
    if attack.nearest(threat):
        _is_nearest(attack, model, x, y, threat, tolerance, hint)
        return
    best = _best(model, x, y, threat)
    x_adv = attack.run(model, x.clone(), y.clone(), threat)
    _is_image(x_adv, x)
    reached = ((_margin(model, x, y) - _margin(model, x_adv.detach(), y)) / best).amin()
    if reached < 1 - tolerance:
        wrong_way = ": it raises the margin, so the loss or the step has the wrong sign" if reached < -0.1 else ""
        raise ConformanceError(
            f"{threat}, linear model{' with negative logits' if negative else ''}: the margin falls by "
            f"{100 * float(reached):.0f} % of what the closed form allows for the worst sample{wrong_way}{hint}"
        )
    highest = float(((_margin(model, x, y) - _margin(model, x_adv.detach(), y)) / best).amax())
    if highest > 1.001:
        raise ConformanceError(
            f"{threat}, linear model: the margin falls by {100 * highest:.1f} % of what any image in the ball and the "
            "box allows, so an answer lies outside"
        )


def _is_nearest(
    attack: Contestant, model: TwoSided, x: Tensor, y: Tensor, threat: ThreatModel, tolerance: float, hint: str
) -> None:
    x_adv = attack.run(model, x.clone(), y.clone(), threat).detach()
    _is_image(x_adv, x)
    kept = int((_predicted(model, x_adv) == y).sum())
    if kept:
        raise ConformanceError(f"{threat.norm}, linear model: no adversarial found for {kept} of {len(x)} images{hint}")
    assert threat.norm != "box", "the checks are of balls"
    slope = _descent(model, y).expand(len(x), -1)
    distance = nearest_distance(slope, x.flatten(1).double(), _margin(model, x, y), threat.norm)
    too_much = float((threat.distance(x_adv, x) / distance).amax())
    if too_much > 1 + tolerance:
        raise ConformanceError(
            f"{threat.norm}, linear model: an adversarial is {too_much:.2f} times as far as the nearest one{hint}"
        )


def _linear_problem(attack: Contestant, norm: LpNorm, *, cut: bool, negative: bool) -> tuple[TwoSided, Tensor, Tensor]:
    """A linear model with images on both sides of its boundary; in float64 for attacks that are known to take it."""
    x, w = images(_N, cut=cut), weight(plateau=norm == "l1")
    bias = -float((x.flatten(1) @ w).median()) - 0.02
    model = TwoSided(w, bias, common=weight(7, scale=1.0), shift=-60.0) if negative else TwoSided(w, bias)
    if attack.keyed:
        model, x = model.double(), x.double()
    return model, x, _predicted(model, x)


def _best(model: TwoSided, x: Tensor, y: Tensor, threat: ThreatModel) -> Tensor:
    """The closed form: by how much each margin can fall, (N,)."""
    assert threat.norm != "box", "the checks are of balls"
    eps = torch.full((len(x),), threat.radius, dtype=torch.float64)
    return largest_rise(_descent(model, y), x.flatten(1).double(), eps, threat.norm)


def _descent(model: TwoSided, y: Tensor) -> Tensor:
    """The direction in which each margin falls, (N, D)."""
    sign = torch.where(y == 0, -1.0, 1.0).double()
    return sign[:, None] * model.weight.detach().double()


def _margin(model: TwoSided, x: Tensor, y: Tensor) -> Tensor:
    """Margins in float64 by the formula, which rounding of large logits has no part in, (N,)."""
    value = x.detach().flatten(1).double() @ model.weight.detach().double() + model.bias
    return torch.where(y == 0, value, -value)


def _after(attack: Contestant, model: TwoSided, x: Tensor, y: Tensor, threat: ThreatModel, seed: int = 0) -> Tensor:
    return _margin(model, attack.run(model, x.clone(), y.clone(), threat, seed=seed), y)


def _predicted(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(x)
    return logits.argmax(1)


def _is_image(x_adv: object, x: Tensor) -> None:
    if not isinstance(x_adv, Tensor) or x_adv.shape != x.shape:
        got = tuple(x_adv.shape) if isinstance(x_adv, Tensor) else type(x_adv).__name__
        raise ConformanceError(f"expected images of shape {tuple(x.shape)}, got {got}")
    if not bool(x_adv.isfinite().all()):
        raise ConformanceError("an answer holds NaN or infinity; is something divided by the norm of a zero gradient?")
