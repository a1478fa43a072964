"""APGD: the optimum of linear models, the published search step by step, and input of every kind.

What is special to L1 and to several stages has tests of its own.
"""

import pytest
import torch
from linear import TwoClasses, classified, cnn, falsified, keys, optimum
from torch import nn

from lit_robust.attacks import APGD, PGD, TargetedAPGD
from lit_robust.attacks.apgd_climb import HalvingClimb, Stage, intervals
from lit_robust.errors import UserError
from lit_robust.losses import cross_entropy, dlr, negative_margin
from lit_robust.threat import ThreatModel

LINF, L2, L1 = ThreatModel("6/255"), ThreatModel("0.15", "l2"), ThreatModel("0.5", "l1")
THREATS = [ThreatModel("8/255"), ThreatModel("0.3", "l2"), ThreatModel("0.4", "l1")]
CUT = [ThreatModel("0.5"), ThreatModel("2", "l2")]  # the box cuts these
SHAPE = (3, 4, 4)
by_name = {"ids": str}


def corners(n=4, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.rand(n, *SHAPE, generator=generator, dtype=torch.float64) - 0.5).clamp(0, 1)


def weights():
    return 0.3 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def seen(model, run):
    """What `run` shows the model, (calls, N, C, H, W), and what it returns."""
    inputs = []
    handle = model.register_forward_pre_hook(lambda _, given: inputs.append(given[0].detach().clone()))
    try:
        result = run()
    finally:
        handle.remove()
    return inputs, result


@pytest.mark.parametrize("threat", [*THREATS[:2], *CUT], **by_name)
@pytest.mark.parametrize("loss", [cross_entropy, negative_margin])
def test_apgd_reaches_the_optimum_of_a_linear_model(threat, loss):
    w, x = weights(), corners()
    x_adv = APGD(threat=threat, loss=loss)(TwoClasses(w), x, torch.zeros(4, dtype=torch.long), key=keys(4))
    best = (optimum(-w, x, threat) * -w).flatten(1).sum(1)
    reached = ((x - x_adv) * w).flatten(1).sum(1) / best
    assert reached.min() >= 0.9999
    assert reached.max() <= 1 + 1e-9
    assert threat.contains(x_adv, x).all()


def test_one_step_of_twice_the_radius_crosses_the_linf_ball_from_any_start():
    w, x = weights(), corners()
    x_adv = APGD(threat=THREATS[0], steps=1)(TwoClasses(w), x, torch.zeros(4, dtype=torch.long), key=keys(4))
    torch.testing.assert_close(x_adv, x + optimum(-w, x, THREATS[0]))


def test_the_first_three_points_in_l2_are_the_published_ones():
    w, threat = weights(), THREATS[1]
    x, model = torch.full((4, *SHAPE), 0.5, dtype=torch.float64), TwoClasses(w)
    attack = APGD(threat=threat, steps=2, loss=negative_margin)
    points, _ = seen(model, lambda: attack(model, x, torch.zeros(4, dtype=torch.long), key=keys(4)))
    ascent = 2 * threat.radius * -w / w.norm()

    def onto(point):
        length = (point - x).flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        return x + (point - x) * (threat.radius / length).clamp(max=1)

    assert threat.distance(points[0], x).tolist() == pytest.approx([threat.radius] * 4)
    torch.testing.assert_close(points[1], onto(points[0] + ascent))
    ahead = onto(points[1] + ascent)
    mixed = points[1] + 0.75 * (ahead - points[1]) + 0.25 * (points[1] - points[0])
    torch.testing.assert_close(points[2], onto(mixed))


@pytest.mark.parametrize("threat", THREATS, **by_name)
def test_the_start_is_random_on_the_surface_of_the_ball(threat):
    model = cnn()
    x, y = classified(model, 8, low=0.3, high=0.7)
    attack = APGD(threat=threat, steps=1)
    starts = [seen(model, lambda s=s: attack(model, x, y, key=keys(8, seed=s)))[0][0] for s in (0, 0, 1)]
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])
    assert threat.distance(starts[0], x).tolist() == pytest.approx([threat.radius] * 8)
    assert ((starts[0] - x).flatten(1).mean(1).abs() < 0.25 * threat.radius).all()  # of both signs


@pytest.mark.parametrize(("way", "passes"), [("call", 3), ("falsify", 2)])
def test_each_target_has_a_start_of_its_own(way, passes):
    model = cnn()
    x, y = classified(model, 4)
    attack = TargetedAPGD(threat=ThreatModel("0.01/255"), steps=1, targets=3)
    run = {"call": lambda: attack(model, x, y, key=keys(4)), "falsify": lambda: falsified(attack, model, x, y)}[way]
    inputs, _ = seen(model, run)
    starts = inputs[1::passes]  # the clean image, then start and step of each target, and in a search a comparison
    assert torch.equal(inputs[0], x)
    assert len(starts) == 3
    assert not any(torch.equal(a, b) for a, b in [starts[:2], starts[1:], starts[::2]])


def test_checkpoints_are_those_of_the_paper():
    # 0.22, then gaps that shrink by 0.03 down to 0.06, of the number of steps, rounded up.
    at = [22, 41, 57, 70, 80, 87, 93, 99]
    assert list(intervals(100)) == at
    assert list(intervals(100).values()) == [22, 19, 16, 13, 10, 7, 6, 6]
    assert list(intervals(1000)) == [10 * step for step in at]
    assert list(intervals(10)) == [3, 5, 6, 7, 8, 9, 10]
    assert intervals(1) == {1: 1}


@pytest.mark.parametrize("loss", [cross_entropy, dlr])
@pytest.mark.parametrize("threat", [LINF, L2, L1], **by_name)
def test_search_returns_the_point_of_highest_loss_that_the_model_saw(threat, loss):
    model = cnn()
    x, y = classified(model, 8)
    attack = APGD(threat=threat, loss=loss)
    points, x_adv = seen(model, lambda: attack(model, x, y, key=keys(8)))
    assert len(points) == 101
    with torch.no_grad():
        losses = torch.stack([loss(model(point), y) for point in points])
    highest = losses.argmax(0)
    assert (highest < 100).any()  # the last point is not always the best
    torch.testing.assert_close(x_adv, torch.stack(points)[highest, torch.arange(8)], rtol=0, atol=0)


def test_a_step_that_overshoots_is_halved_from_the_best_point():
    # Two parallel walls: the loss falls off on both sides of a line within the ball, which full steps jump across.
    class Ridge(nn.Module):
        def forward(self, x):
            z = -((x.flatten(1).mean(1, keepdim=True) - 0.51).abs())
            return torch.cat([torch.zeros_like(z), z], 1)

    x, y = torch.full((1, *SHAPE), 0.5, dtype=torch.float64), torch.zeros(1, dtype=torch.long)
    height = [
        Ridge()(APGD(threat=ThreatModel("0.1"), steps=steps)(Ridge(), x, y, key=keys(1)))[0, 1].item()
        for steps in (10, 100)
    ]
    no_checkpoints = PGD(threat=ThreatModel("0.1"), steps=100, step_size="2*eps")
    assert Ridge()(no_checkpoints(Ridge(), x, y, key=keys(1)))[0, 1].item() < -0.05
    assert height[1] > -0.001
    assert height[1] >= height[0]


def test_falsify_returns_the_first_adversarial_or_the_point_of_highest_loss():
    model = cnn()
    x, y = classified(model, 32)
    attack = APGD(threat=ThreatModel("5/255"), steps=12)
    points, _ = seen(model, lambda: falsified(attack, model, x, y, leave=False))
    with torch.no_grad():
        verdicts = torch.stack([model(point).argmax(1) != y for point in points])
        highest = torch.stack([cross_entropy(model(point), y) for point in points]).argmax(0)
    fallen = verdicts.any(0)
    assert 0 < fallen.sum() < 32
    assert (highest[~fallen] < 12).any()  # the last point is not always the best
    chosen = torch.where(fallen, verdicts.int().argmax(0), highest)
    expected = torch.stack(points)[chosen, torch.arange(32)]
    torch.testing.assert_close(falsified(attack, model, x, y), expected, rtol=0, atol=1e-12)


def test_a_checkpoint_halves_for_too_few_rises_or_a_loss_that_stands_still_at_the_same_step():
    rises = [13, 11, 12, 13, 13]  # of 16, with rho 0.75: more than 12 are enough
    best_before = [0.0, 0.0, 0.0, 1.0, 1.0]
    halved_before = [False, False, False, False, True]
    expected = [False, True, True, True, False]
    x = torch.rand(5, *SHAPE)
    stage = Stage(threat=ThreatModel("0.25"), steps=100, passes=0, alone=True, rho=0.75)
    climb = HalvingClimb.begin(stage, x, x)
    assert climb.halved.all()  # so that the first checkpoint does not ask whether the loss stands still
    climb.x_best, climb.grad, climb.grad_best = x + 1, x + 2, x + 3
    climb.loss_best, climb.loss_checked = torch.ones(5), torch.tensor(best_before)
    climb.rises, climb.halved = torch.tensor(rises), torch.tensor(halved_before)
    climb.check(0.75 * 16)
    assert climb.halved.tolist() == expected
    assert climb.size.tolist() == [0.25 if halve else 0.5 for halve in expected]
    for i, halve in enumerate(expected):
        assert torch.equal(climb.x_adv[i], x[i] + 1 if halve else x[i])
        assert torch.equal(climb.grad[i], x[i] + 3 if halve else x[i] + 2)
    assert climb.rises.tolist() == [0] * 5
    assert climb.loss_checked.tolist() == [1.0] * 5


@pytest.mark.parametrize("threat", [ThreatModel(0), ThreatModel(0, "l2"), ThreatModel(0, "l1")], **by_name)
@pytest.mark.parametrize("kind", [APGD, TargetedAPGD])
def test_a_radius_of_zero_leaves_the_image(kind, threat):
    model = cnn()
    x, y = classified(model, 4)
    assert torch.equal(kind(threat=threat, steps=5)(model, x, y, key=keys(4)), x)
    assert torch.equal(falsified(kind(threat=threat, steps=5), model, x, y), x)


@pytest.mark.parametrize("threat", [LINF, L2, L1], **by_name)
@pytest.mark.parametrize("kind", [APGD, TargetedAPGD])
@pytest.mark.parametrize("slope", ["zero", "nan"])
def test_a_gradient_that_is_zero_or_not_a_number_gives_images(kind, threat, slope):
    class Flat(nn.Module):
        def forward(self, x):
            zero = x - x.detach()
            zero = zero * 0 if slope == "zero" else zero.abs().sqrt()  # the slope of a root at 0 is infinite
            return torch.arange(5) + zero.flatten(1).sum(1, keepdim=True)

    x, y = torch.rand(4, *SHAPE, dtype=torch.float64), torch.full((4,), 4)
    for x_adv in (
        kind(threat=threat, steps=30)(Flat(), x, y, key=keys(4)),
        falsified(kind(threat=threat, steps=30), Flat(), x, y),
    ):
        assert x_adv.isfinite().all()
        assert threat.contains(x_adv, x).all()


@pytest.mark.parametrize("kind", [APGD, TargetedAPGD])
def test_one_hot_probabilities_count_as_their_label(kind):
    model = cnn()
    x, y = classified(model, 8)
    hot = nn.functional.one_hot(y, 4).double()
    attack = kind(threat=LINF, steps=10)
    torch.testing.assert_close(attack(model, x, hot, key=keys(8)), attack(model, x, y, key=keys(8)))
    torch.testing.assert_close(falsified(attack, model, x, hot), falsified(attack, model, x, y))


def test_soft_labels_are_ascended_as_they_are():
    model = cnn()
    x, y = classified(model, 8)
    soft = nn.functional.one_hot(y, 4).double() * 0.49 + nn.functional.one_hot((y + 1) % 4, 4) * 0.51
    attack = APGD(threat=LINF, steps=20)
    with torch.no_grad():
        reached = [cross_entropy(model(attack(model, x, aim, key=keys(8))), soft) for aim in (soft, soft.argmax(1))]
    assert (reached[0] >= reached[1]).all()
    assert (reached[0] > reached[1] + 0.01).any()


@pytest.mark.parametrize("kind", [APGD, TargetedAPGD])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "expected steps to be 1 or more, got 0"),
        ({"rho": 0}, "expected rho to be above 0 and at most 1, got 0"),
        ({"rho": 1.5}, "expected rho to be above 0 and at most 1, got 1.5"),
        ({"threat": ThreatModel(3, "l0")}, "expected a threat model in linf, l2 or l1, got L0 3"),
        ({"threat": ThreatModel(None, "l2")}, "expected a threat model with a radius"),
        ({"threat": ThreatModel.box()}, "expected a threat model in linf, l2 or l1, got box; PGD also takes the box"),
    ],
    ids=str,
)
def test_impossible_options_of_apgd_are_refused(kind, options, message):
    with pytest.raises(UserError, match=message):
        kind(**{"threat": LINF, **options})


def test_names_say_what_is_run():
    assert str(APGD(threat=LINF)) == "APGD-100 L∞ 6/255, cross_entropy, rho 0.75"
    assert str(APGD(threat=L2, loss=dlr, steps=20)) == "APGD-20 L2 0.15, dlr, rho 0.75"
    assert str(TargetedAPGD(threat=LINF)) == "TargetedAPGD-100 L∞ 6/255, 9 targets, rho 0.75"
    assert str(APGD(threat=L1)) == "APGD-100 L1 0.5, cross_entropy"
    assert not TargetedAPGD(threat=LINF).targeted  # y is the label, not the class to reach
