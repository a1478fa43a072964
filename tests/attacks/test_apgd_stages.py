"""Stages of APGD: balls of falling radius, each searched from the best point of the one before."""

import pytest
import torch
from linear import TwoClasses, classified, cnn, falsified, keys

from lit_robust import sampling
from lit_robust.attacks import APGD, TargetedAPGD
from lit_robust.errors import UserError
from lit_robust.losses import cross_entropy
from lit_robust.threat import ThreatModel

LINF, L2, L1 = ThreatModel("4/255"), ThreatModel("0.15", "l2"), ThreatModel("0.5", "l1")
THREE = ((3, 0.3), (2, 0.3), (1, 0.4))
each_norm = pytest.mark.parametrize("threat", [LINF, L2, L1], ids=str)


def points_of(run, model):
    """What `run` shows the model, and what it returns."""
    seen = []
    handle = model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
    result = run()
    handle.remove()
    return seen, result


@each_norm
def test_each_stage_starts_from_the_best_point_of_the_one_before(threat):
    model = cnn()
    x, y = classified(model, 8, low=0.2, high=0.8)
    attack = APGD(threat=threat, steps=20, stages=THREE)
    seen, x_adv = points_of(lambda: attack(model, x, y, key=keys(8)), model)
    assert len(seen) == 23  # a stage looks at its start besides its steps
    stages = [torch.stack(points) for points in (seen[:7], seen[7:14], seen[14:])]
    best = []
    for points in stages:
        with torch.no_grad():
            highest = torch.stack([cross_entropy(model(point), y) for point in points]).argmax(0)
        best.append(points[highest, torch.arange(8)])
    for times, points in zip((3, 2, 1), stages, strict=True):
        distance = torch.stack([threat.distance(point, x) for point in points])
        assert distance.amax().item() == pytest.approx(times * threat.radius)
    for times, end, points in zip((2, 1), best[:2], stages[1:], strict=True):
        ball = ThreatModel(times * threat.exact, threat.norm)
        torch.testing.assert_close(points[0], ball.project(end, x), rtol=0, atol=1e-12)
    assert torch.equal(x_adv, best[2])
    assert threat.distance(stages[0][0], x).tolist() == pytest.approx([3 * threat.radius] * 8)


@each_norm
def test_an_adversarial_counts_in_the_last_stage_alone(threat):
    # The margin is used up between the radius and three times the radius: only the larger balls hold adversarials.
    w = torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    steepest = {"linf": w.abs().sum(), "l2": w.norm(), "l1": w.abs().max()}[threat.norm]
    x, y = torch.full((4, 3, 6, 6), 0.5, dtype=torch.float64), torch.zeros(4, dtype=torch.long)
    for share, expected in ((1.5, False), (0.5, True)):
        model = TwoClasses(w, float(share * threat.radius * steepest - 0.5 * w.sum()))
        attack = APGD(threat=threat, steps=30, stages=THREE)
        seen, x_adv = points_of(lambda: falsified(attack, model, x, y), model)  # noqa: B023
        with torch.no_grad():
            assert any((model(point).argmax(1) != 0).any() for point in seen[:20])
            assert ((model(x_adv).argmax(1) != 0) == expected).all()
        assert threat.contains(x_adv, x).all()
        assert len(seen) == (33 if not expected else 21)  # the projected start of the last stage breaks them all


@pytest.mark.parametrize(
    ("steps", "shares", "expected"),
    [
        (100, (0.3, 0.3, 0.4), [30, 30, 40]),
        (15, (0.3, 0.3, 0.4), [5, 5, 5]),
        (10, (0.3, 0.3, 0.4), [3, 3, 4]),
        (1, (0.3, 0.3, 0.4), [1, 0, 0]),
        (2, (0.3, 0.3, 0.4), [1, 1, 0]),
        (100, (0.29, 0.71), [29, 71]),
        (7, (1.0,), [7]),
    ],
)
def test_shares_of_the_steps_are_rounded_up_and_the_last_stage_has_the_rest(steps, shares, expected):
    stages = [(len(shares) - i, share) for i, share in enumerate(shares)]
    attack = APGD(threat=LINF, steps=steps, stages=stages)
    assert [stage.steps for stage in attack._stages()] == expected
    model = cnn()
    x, y = classified(model, 2)
    passes, _ = points_of(lambda: attack(model, x, y, key=keys(2)), model)
    assert len(passes) == steps + len(shares)


@pytest.mark.parametrize("stages", [((1, 1),), THREE], ids=["one stage", "three stages"])
@pytest.mark.parametrize("kind", [APGD, TargetedAPGD])
def test_the_passes_that_are_announced_are_those_of_a_search(kind, stages):
    model, calls = cnn(classes=5), []
    x, y = classified(model, 2, classes=5)
    attack = kind(threat=LINF, steps=6, stages=stages)
    points, _ = points_of(lambda: attack(model, x, y, key=keys(2)), model)
    model.register_full_backward_hook(lambda *_: calls.append(1))
    attack(model, x, y, key=keys(2))
    assert attack.passes(5) == (len(points), len(calls))


@pytest.mark.parametrize("kind", [APGD, TargetedAPGD])
def test_every_pass_of_every_stage_draws_anew(kind):
    drawn = []

    class Draws(torch.nn.Module):
        def forward(self, x):
            drawn.append(sampling.layer_uniform(x)[0, 0, 0, 0].item())
            return torch.tensor([1.0, 0.0], dtype=x.dtype) + 0 * x.sum((1, 2, 3))[:, None]

    x, y = torch.rand(1, 3, 4, 4), torch.zeros(1, dtype=torch.long)
    kind(threat=LINF, steps=6, stages=THREE)(Draws(), x, y, key=keys(1))
    assert len(drawn) == 9 + 2 * (kind is TargetedAPGD)  # the clean image and the comparison of targets
    assert len(set(drawn)) == len(drawn)


def test_the_largest_ball_in_linf_is_the_box():
    threat = ThreatModel("0.6")
    model = cnn()
    x, y = classified(model, 4)
    attack = APGD(threat=threat, steps=10, stages=THREE)
    assert [stage.threat.radius for stage in attack._stages()] == [1, 1, 0.6]
    assert threat.contains(attack(model, x, y, key=keys(4)), x).all()


@pytest.mark.parametrize("kind", [APGD, TargetedAPGD])
@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ((), r"expected radii of stages that fall to 1, in units of eps, got \[\]"),
        (((2, 1),), r"radii of stages that fall to 1, in units of eps, got \[2.0\]"),
        (((2, 0.5), (3, 0.2), (1, 0.3)), "radii of stages that fall to 1"),
        (((0.5, 0.5), (1, 0.5)), "radii of stages that fall to 1"),
        (((float("inf"), 0.5), (1, 0.5)), "radii of stages that fall to 1"),
        (((2, 0.5), (1, 0.4)), r"shares of the steps above 0 that add up to 1, got \[0.5, 0.4\]"),
        (((2, 1.5), (1, -0.5)), "shares of the steps above 0 that add up to 1"),
        (((2, 0), (1, 1)), "shares of the steps above 0 that add up to 1"),
    ],
)
def test_impossible_stages_are_refused(kind, stages, message):
    with pytest.raises(UserError, match=message):
        kind(threat=LINF, stages=stages)


def test_stages_as_a_config_gives_them_are_those_of_python():
    attack = APGD(threat=L1, stages=[[3, 0.3], [2, 0.3], [1, 0.4]])
    assert attack == APGD(threat=L1, stages=THREE)
    assert hash(attack) == hash(APGD(threat=L1, stages=THREE))
    assert str(attack) == "APGD-100 L1 0.5, cross_entropy, 0.3 at 3 eps, 0.3 at 2 eps"
    assert str(TargetedAPGD(threat=LINF, stages=((2, 0.5), (1, 0.5)))) == (
        "TargetedAPGD-100 L∞ 4/255, 9 targets, rho 0.75, 0.5 at 2 eps"
    )
