"""Honest attacks pass every check in the norms that they claim; each broken one fails by the check meant for it."""

import math
import sys
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_robust.attacks import APGD, FAB, PGD, Attack
from lit_robust.conformance import CHECKS, NORMS, ConformanceError, NotApplicableError, contestant, load
from lit_robust.conformance.closed_form import largest_rise, nearest_distance
from lit_robust.conformance.contestant import claims
from lit_robust.conformance.models import TwoSided, images, weight
from lit_robust.errors import UserError
from lit_robust.threat import ThreatModel

BY_NAME = {check.__name__: check for check in CHECKS}
HONEST = {
    "pgd": lambda threat: PGD(threat=threat, steps=30, step_size="eps/6", l1_share=0.1),
    "apgd": lambda threat: APGD(threat=threat, steps=100 if threat.norm == "l1" else 20),
    "fab": lambda threat: FAB(norm=threat.norm, eps=threat.eps or None, steps=5),
}


def ascend(model, x, y, eps, norm, *, steps=5, sign=1.0, loss=None):
    """A plain PGD from the image in L∞ and L2; what the broken attacks below are variations of."""
    threat = ThreatModel(eps, norm)
    if norm == "l1":
        raise NotImplementedError("no L1")
    x_adv = x.clone()
    for _ in range(steps):
        x_adv.requires_grad_()
        value = (
            torch.nn.functional.cross_entropy(model(x_adv), y, reduction="sum")
            if loss is None
            else loss(model(x_adv), y)
        )
        (grad,) = torch.autograd.grad(value, x_adv)
        x_adv = threat.project(x_adv.detach() + sign * 0.5 * eps * threat.ascent(grad, x_adv.detach()), x)
    return x_adv.detach()


def of_the_whole_batch(model, x, y, eps, norm):
    delta = ascend(model, x, y, eps, norm) - x
    return (x + delta * min(1.0, eps / max(float(delta.norm()), 1e-12)) if norm == "l2" else x + delta).clamp(0, 1)


def wrong_sign(model, x, y, eps, norm):
    return ascend(model, x, y, eps, norm, sign=-1.0)


def leaves_the_ball(model, x, y, eps, norm):
    return (x + 1.2 * (ascend(model, x, y, eps, norm) - x)).clamp(0, 1)


def leaves_the_box(model, x, y, eps, norm):
    return x + eps * (ascend(model, x, y, eps, norm, steps=1) - x).sign() / (
        1 if norm == "linf" else math.sqrt(x[0].numel())
    )


def masks_with_0(model, x, y, eps, norm):
    def loss(logits, y):
        mine = torch.nn.functional.one_hot(y, logits.shape[1])
        return ((1 - mine) * logits).amax(1).sum() - (mine * logits).sum()

    return ascend(model, x, y, eps, norm, loss=loss)


def starts_anywhere(model, x, y, eps, norm):
    return (ascend(model, x, y, eps, norm) + 0.01 * torch.linspace(-1, 1, x.shape[-1])).clamp(0, 1)


def stays_in_train_mode(model, x, y, eps, norm):
    x_adv = ascend(model.eval(), x, y, eps, norm)
    model.train()
    return x_adv


def leaves_gradients(model, x, y, eps, norm):
    x_adv = ascend(model, x, y, eps, norm)
    model(x_adv).sum().backward()
    return x_adv


def writes_into_x(model, x, y, eps, norm):
    return x.copy_(ascend(model, x, y, eps, norm))


def gives_nan(model, x, y, eps, norm):
    delta = ascend(model, x, y, eps, norm) - x
    return x + eps * delta / delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def only_the_last_restart_counts(model, x, y, eps, norm, restarts=1):
    threat = ThreatModel(eps, norm)
    for _ in range(restarts):
        start = threat.project(x + eps * (2 * torch.rand_like(x) - 1), x)
        x_adv = threat.project(ascend(model, start, y, eps / 4, norm), x)
    return x_adv


@dataclass(frozen=True, kw_only=True)
class GlobalNoise(Attack):
    """PGD from a start of torch's global generator."""

    threat: ThreatModel

    @property
    def threat_model(self):
        return self.threat

    def search(self, model, x, y, noise):
        start = self.threat.project(x + 0.1 * torch.randn_like(x), x)
        return PGD(threat=self.threat, start="clean", steps=3).search(model, start, y, noise)


@dataclass(frozen=True, kw_only=True)
class MeanNormalised(GlobalNoise):
    """Steps in proportion to the gradient over the mean length of all gradients of the batch."""

    def search(self, model, x, y, noise):
        x = x.requires_grad_()
        (grad,) = torch.autograd.grad(torch.nn.functional.cross_entropy(model(x), y), x)
        step = 0.3 * self.threat.radius * grad / grad.flatten(1).norm(dim=1).mean()
        return self.threat.project((x + step).detach(), x.detach())


def never_the_same(model, x, y, eps, norm):
    generator = torch.Generator()
    generator.seed()
    start = (x + 0.01 * eps * torch.rand(x.shape, generator=generator, dtype=x.dtype)).clamp(0, 1)
    return ThreatModel(eps, norm).project(ascend(model, start, y, eps, norm, steps=1), x)


BROKEN = [
    (of_the_whole_batch, "l2", "treats_each_sample_alone", "over the batch"),
    (MeanNormalised, "l2", "treats_each_sample_alone", "over the batch"),
    (wrong_sign, "linf", "reaches_the_optimum", "wrong sign"),
    (leaves_the_ball, "linf", "stays_inside", "outside the ball"),
    (leaves_the_ball, "l2", "reaches_the_optimum", "lies outside"),
    (leaves_the_box, "linf", "stays_inside", r"pixels leave \[0, 1\]"),
    (masks_with_0, "linf", "manages_negative_logits", "masked with 0"),
    (starts_anywhere, "linf", "gives_the_image_for_eps_0", "ignores eps"),
    (gives_nan, "l2", "gives_the_image_for_eps_0", "NaN"),
    (stays_in_train_mode, "linf", "leaves_the_model_as_it_was", "eval mode and is in the other"),
    (leaves_gradients, "linf", "leaves_the_model_as_it_was", "gradients left over"),
    (writes_into_x, "linf", "leaves_the_model_as_it_was", "x was written into"),
    (only_the_last_restart_counts, "linf", "restarts_never_raise_accuracy", "right again"),
    (GlobalNoise, "linf", "repeats_itself_by_seed", "global generator"),
    (never_the_same, "linf", "repeats_itself_by_seed", "two answers"),
]


@pytest.mark.parametrize("check", CHECKS, ids=BY_NAME)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", HONEST)
def test_honest_attacks_pass(name, norm, check):
    if name == "fab" and check is BY_NAME["gives_the_image_for_eps_0"]:
        with pytest.raises(NotApplicableError, match="any distance"):
            check(contestant(HONEST[name], name), norm)
        return
    check(contestant(HONEST[name], name), norm)


@pytest.mark.parametrize("check", CHECKS, ids=BY_NAME)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_plain_function_passes(norm, check):
    def attack(model, x, y, eps, norm, restarts=1):
        return ascend(model, x, y, eps, norm, steps=8)

    check(contestant(attack, "plain"), norm)


@pytest.mark.parametrize(
    ("broken", "norm", "check", "words"), BROKEN, ids=lambda value: getattr(value, "__name__", None)
)
def test_a_broken_attack_fails_by_the_check_meant_for_it(broken, norm, check, words):
    with pytest.raises(ConformanceError, match=words):
        BY_NAME[check](contestant(broken, "broken"), norm)


def test_an_attack_that_finds_something_too_far_away_or_nothing_fails():
    def farther(model, x, y, eps, norm):
        return (ascend(model, x, y, 0.9, norm) > 0.5).float()

    far, idle = (contestant(f, "f", finds_nearest=True) for f in (farther, lambda model, x, y, eps, norm: x))
    with pytest.raises(ConformanceError, match="times as far as the nearest"):
        BY_NAME["reaches_the_optimum"](far, "linf")
    with pytest.raises(ConformanceError, match="no adversarial found for 8"):
        BY_NAME["reaches_the_optimum"](idle, "linf")


def test_an_idle_attack_does_not_pass():
    with pytest.raises(ConformanceError, match="0 % of what the closed form allows"):
        BY_NAME["reaches_the_optimum"](contestant(lambda model, x, y, eps, norm: x, "idle"), "linf")


def test_a_norm_is_claimed_unless_the_attack_refuses_it():
    x, y = images(2, cut=False), torch.zeros(2, dtype=torch.long)
    attack = contestant(lambda model, x, y, eps, norm: ascend(model, x, y, eps, norm), "a")
    assert claims(attack, "l1", TwoSided(weight()), x, y, 1.0) == "no L1"
    assert claims(attack, "l2", TwoSided(weight()), x, y, 1.0) is None


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("attacked", "expected module:name"),
        ("no_such_module:f", "no module 'no_such_module'"),
        ("attacked:nothing", "nothing"),
        ("attacked:NUMBER", "expected a function of a ThreatModel"),
        ("attacked:two", "expected a function of a ThreatModel"),
    ],
)
def test_what_is_no_attack_is_refused(tmp_path, monkeypatch, spec, words):
    (tmp_path / "attacked.py").write_text("NUMBER = 3\ndef two(a, b): ...\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    sys.modules.pop("attacked", None)
    with pytest.raises(UserError, match=words):
        load(spec)


def test_an_attack_class_is_loaded_by_name():
    assert load("lit_robust.attacks:PGD").attack(ThreatModel(0.1)) == PGD(threat=ThreatModel(0.1))


@pytest.mark.parametrize("norm", NORMS)
def test_in_the_middle_of_the_box_the_rise_is_eps_times_the_dual_norm(norm):
    slope = weight().double()[None]
    dual = torch.linalg.vector_norm(slope, ord={"linf": 1, "l2": 2, "l1": torch.inf}[norm])
    middle = torch.full_like(slope, 0.5)
    rise = largest_rise(slope, middle, torch.tensor([0.05]), norm)
    torch.testing.assert_close(rise, 0.05 * dual[None])
    torch.testing.assert_close(nearest_distance(slope, middle, rise, norm), torch.tensor([0.05]).double())
    assert nearest_distance(slope, middle, torch.tensor([1e6]).double(), norm).isinf().all()


@given(seed=st.integers(0, 1000), norm=st.sampled_from(NORMS), eps=st.floats(0.01, 3))
@settings(deadline=None, derandomize=True, max_examples=15)
def test_the_projection_of_a_point_far_along_the_slope_reaches_the_closed_form(seed, norm, eps):
    generator = torch.Generator().manual_seed(seed)
    slope = torch.randn(1, 12, generator=generator, dtype=torch.float64)
    x = (2 * torch.rand(1, 12, generator=generator, dtype=torch.float64) - 0.5).clamp(0, 1)
    threat = ThreatModel(min(eps, 1.0) if norm == "linf" else eps, norm)
    best = largest_rise(slope, x, torch.tensor([threat.radius]).double(), norm)
    reached = ((threat.project(x + 1e6 * slope, x) - x) * slope).sum(1)
    torch.testing.assert_close(reached, best, rtol=1e-4, atol=1e-6)
