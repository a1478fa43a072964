"""APGD and targeted APGD: closed forms, the published search step by step, and verdicts like the authors' code."""

import itertools

import pytest
import torch
from linear import Noisy, TwoClasses, broken, classified, cnn, falsified, keys, optimum
from torch import nn

from lit_robust.attacks import APGD, EOT, PGD, Restarts, TargetedAPGD, WorstOf, apgd
from lit_robust.errors import UserError
from lit_robust.evaluation import evaluate_block
from lit_robust.losses import cross_entropy, dlr, negative_log_likelihood, negative_margin
from lit_robust.threat import ThreatModel

LINF, L2 = ThreatModel("6/255"), ThreatModel("0.15", "l2")
THREATS = [ThreatModel("8/255"), ThreatModel("0.3", "l2")]
CUT = [ThreatModel("0.5"), ThreatModel("2", "l2")]  # the box cuts these
SHAPE = (3, 4, 4)
by_name = {"ids": str}


def corners(n=4, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.rand(n, *SHAPE, generator=generator, dtype=torch.float64) - 0.5).clamp(0, 1)


def linear(classes, seed=0):
    """A linear classifier of `SHAPE` images and its weights, (classes, *SHAPE)."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, classes, dtype=torch.float64))
    with torch.no_grad():
        model[1].weight.copy_(0.3 * torch.randn(classes, 48, generator=generator, dtype=torch.float64))
        model[1].bias.copy_(-0.5 * model[1].weight.sum(1))  # equal logits in the middle of the box
    return model, model[1].weight.detach().view(classes, *SHAPE)


def seen(model, run):
    """What `run` shows the model, (calls, N, C, H, W), and what it returns."""
    inputs = []
    handle = model.register_forward_pre_hook(lambda _, given: inputs.append(given[0].detach().clone()))
    try:
        result = run()
    finally:
        handle.remove()
    return inputs, result


@pytest.mark.parametrize("threat", [*THREATS, *CUT], **by_name)
@pytest.mark.parametrize("loss", [cross_entropy, negative_margin])
def test_apgd_reaches_the_optimum_of_a_linear_model(threat, loss):
    w, x = linear(2)[1][0], corners()
    x_adv = APGD(threat=threat, loss=loss)(TwoClasses(w), x, torch.zeros(4, dtype=torch.long), key=keys(4))
    best = (optimum(-w, x, threat) * -w).flatten(1).sum(1)
    reached = ((x - x_adv) * w).flatten(1).sum(1) / best
    assert reached.min() >= 0.9999
    assert reached.max() <= 1 + 1e-9
    assert threat.contains(x_adv, x).all()


@pytest.mark.parametrize("threat", [ThreatModel("5/255"), ThreatModel("0.15", "l2")], **by_name)
@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_targeted_apgd_breaks_a_linear_model_exactly_where_some_class_can_be_reached(classes, threat):
    # In a linear model the largest z_t − z_y over the threat model is known for each class t.
    model, w = linear(classes)
    x = torch.rand(48, *SHAPE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.no_grad():
        z = model(x)
    y = z.argmax(1)
    lead = z - z.gather(1, y[:, None])
    for label, target in itertools.product(range(classes), repeat=2):
        rise, rows = w[target] - w[label], y == label
        lead[rows, target] += (optimum(rise, x[rows], threat) * rise).flatten(1).sum(1)
    lead.scatter_(1, y[:, None], -torch.inf)
    breakable = lead.amax(1) > 0
    assert 4 < breakable.sum() < 44
    assert lead.amax(1).abs().min() > 1e-4  # no sample is a tie
    attack = TargetedAPGD(threat=threat, steps=50)
    for x_adv in (attack(model, x, y, key=keys(48)), falsified(attack, model, x, y)):
        assert torch.equal(broken(model, x_adv, y), breakable)
        assert threat.contains(x_adv, x).all()


def test_one_step_of_twice_the_radius_crosses_the_linf_ball_from_any_start():
    w, x = linear(2)[1][0], corners()
    x_adv = APGD(threat=THREATS[0], steps=1)(TwoClasses(w), x, torch.zeros(4, dtype=torch.long), key=keys(4))
    torch.testing.assert_close(x_adv, x + optimum(-w, x, THREATS[0]))


def test_the_first_three_points_in_l2_are_the_published_ones():
    w, threat = linear(2)[1][0], THREATS[1]
    x, model = torch.full((4, *SHAPE), 0.5, dtype=torch.float64), TwoClasses(linear(2)[1][0])
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


def test_each_target_has_a_start_of_its_own():
    model = cnn()
    x, y = classified(model, 4)
    attack = TargetedAPGD(threat=LINF, steps=1, targets=3)
    inputs, _ = seen(model, lambda: attack(model, x, y, key=keys(4)))
    starts = inputs[1::3]  # the clean image, then start, step and comparison of each target
    assert torch.equal(inputs[0], x)
    assert len(starts) == 3
    assert not any(torch.equal(a, b) for a, b in [starts[:2], starts[1:], starts[::2]])


def test_checkpoints_are_those_of_the_paper():
    # 0.22, then gaps that shrink by 0.03 down to 0.06, of the number of steps, rounded up.
    at = [22, 41, 57, 70, 80, 87, 93, 99]
    assert list(apgd._intervals(100)) == at
    assert list(apgd._intervals(100).values()) == [22, 19, 16, 13, 10, 7, 6, 6]
    assert list(apgd._intervals(1000)) == [10 * step for step in at]
    assert list(apgd._intervals(10)) == [3, 5, 6, 7, 8, 9, 10]
    assert apgd._intervals(1) == {1: 1}


@pytest.mark.parametrize("loss", [cross_entropy, dlr])
@pytest.mark.parametrize("threat", [LINF, L2], **by_name)
def test_search_returns_the_point_of_highest_loss_that_the_model_saw(threat, loss):
    model = cnn()
    x, y = classified(model, 8)
    attack = APGD(threat=threat, steps=40, loss=loss)
    points, x_adv = seen(model, lambda: attack(model, x, y, key=keys(8)))
    assert len(points) == 41
    with torch.no_grad():
        losses = torch.stack([loss(model(point), y) for point in points])
    highest = losses.argmax(0)
    assert (highest < 40).any()  # the last point is not always the best
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


def test_falsify_returns_the_first_adversarial_and_search_may_go_on():
    model = cnn()
    x, y = classified(model, 16)
    attack = APGD(threat=LINF, steps=20)
    points, _ = seen(model, lambda: falsified(attack, model, x, y, leave=False))
    verdicts = torch.stack([broken(model, point, y) for point in points])
    found = falsified(attack, model, x, y)
    fallen = verdicts.any(0)
    assert 0 < fallen.sum() < 16
    first = verdicts.int().argmax(0)
    expected = torch.stack(points)[first, torch.arange(16)]
    torch.testing.assert_close(found[fallen], expected[fallen], rtol=0, atol=1e-12)
    best = attack(model, x, y, key=keys(16))
    torch.testing.assert_close(found[~fallen], best[~fallen], rtol=0, atol=1e-12)


def test_targets_are_the_likeliest_wrong_classes_in_order(monkeypatch):
    model = cnn(classes=6)
    x, y = classified(model, 8, classes=6)
    y[::2] = (y[::2] + 1) % 6  # some are wrong already: their targets may include the prediction
    reached = []

    def spy(logits, label, target):
        reached.append(target.tolist())
        return logits.sum(1) * 0

    monkeypatch.setattr(apgd, "targeted_dlr", spy)
    TargetedAPGD(threat=LINF, steps=1, targets=3)(model, x, y, key=keys(8))
    with torch.no_grad():
        others = model(x).scatter(1, y[:, None], -torch.inf).argsort(1, descending=True)
    assert reached[::2] == reached[1::2] == others[:, :3].T.tolist()


@pytest.mark.parametrize(("classes", "targets", "runs"), [(2, 9, 1), (3, 9, 2), (4, 9, 3), (10, 9, 9), (10, 4, 4)])
def test_passes_of_samples_that_hold_out(classes, targets, runs):
    model = cnn(classes=classes)
    x, y = classified(model, 6, classes=classes)
    weak = ThreatModel("0.01/255")
    attacks = {"apgd": APGD(threat=weak, steps=4), "t": TargetedAPGD(threat=weak, steps=4, targets=targets)}
    verdicts = evaluate_block(model, x, y, torch.arange(6), attacks, size=6).verdicts
    assert not verdicts["t"].broken.any()
    assert verdicts["apgd"].forwards.tolist() == [5] * 6
    assert verdicts["apgd"].backwards.tolist() == [4] * 6
    assert verdicts["t"].forwards.tolist() == [1 + 5 * runs] * 6
    assert verdicts["t"].backwards.tolist() == [4 * runs] * 6


@pytest.mark.parametrize("kind", ["plain", "random"])
def test_the_ensemble_of_the_tables_works_with_every_wrapper(kind):
    model = cnn() if kind == "plain" else Noisy(cnn(), 0.02)
    x, y = classified(model, 16)
    ce, targeted = APGD(threat=LINF, steps=6), TargetedAPGD(threat=LINF, steps=6)
    both = WorstOf(attacks=[ce, targeted])
    nll = APGD(threat=LINF, steps=6, loss=negative_log_likelihood)
    attacks = {
        "ce": ce,
        "targeted": targeted,
        "both": both,
        "restarts": Restarts(attack=both, n=2),
        "eot": EOT(attack=targeted, draws=2),
        "eot losses": EOT(attack=nll, draws=2, reduce="log_probs"),
    }
    verdicts = evaluate_block(model, x, y, torch.arange(16), attacks, size=16).verdicts
    broken = {name: verdict.broken for name, verdict in verdicts.items()}
    assert 0 < broken["both"].sum() < 16
    if kind == "plain":
        assert torch.equal(broken["both"], broken["ce"] | broken["targeted"])
        assert (broken["restarts"] >= broken["both"]).all()
    held = ~broken["targeted"]
    assert (verdicts["eot"].forwards[held & ~broken["eot"]] == 2 * verdicts["targeted"].forwards[held].max()).all()


@pytest.mark.parametrize("threat", [ThreatModel(0), ThreatModel(0, "l2")], **by_name)
@pytest.mark.parametrize("kind", [APGD, TargetedAPGD])
def test_a_radius_of_zero_leaves_the_image(kind, threat):
    model = cnn()
    x, y = classified(model, 4)
    assert torch.equal(kind(threat=threat, steps=5)(model, x, y, key=keys(4)), x)
    assert torch.equal(falsified(kind(threat=threat, steps=5), model, x, y), x)


@pytest.mark.parametrize("threat", [LINF, L2], **by_name)
@pytest.mark.parametrize("kind", [APGD, TargetedAPGD])
@pytest.mark.parametrize("slope", [0.0, torch.nan])
def test_a_gradient_that_is_zero_or_not_a_number_gives_images(kind, threat, slope):
    class Flat(nn.Module):
        def forward(self, x):
            z = torch.zeros(len(x), 5, dtype=x.dtype) + torch.arange(5)
            return z + (x - x.detach()).flatten(1).sum(1, keepdim=True) * slope

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
        ({"threat": ThreatModel(3, "l1")}, "expected a threat model in linf or l2, got L1 3; PGD also takes l1"),
        ({"threat": ThreatModel(3, "l0")}, "expected a threat model in linf or l2, got L0 3"),
        ({"threat": ThreatModel.box()}, "expected a threat model in linf or l2, got box"),
    ],
    ids=str,
)
def test_impossible_options_of_apgd_are_refused(kind, options, message):
    with pytest.raises(UserError, match=message):
        kind(**{"threat": LINF, **options})


def test_targeted_apgd_needs_a_target():
    with pytest.raises(UserError, match="expected targets to be 1 or more, got 0"):
        TargetedAPGD(threat=LINF, targets=0)


def test_names_say_what_is_run():
    assert str(APGD(threat=LINF)) == "APGD-100 L∞ 6/255, cross_entropy, rho 0.75"
    assert str(APGD(threat=L2, loss=dlr, steps=20)) == "APGD-20 L2 0.15, dlr, rho 0.75"
    assert str(TargetedAPGD(threat=LINF)) == "TargetedAPGD-100 L∞ 6/255, 9 targets, rho 0.75"
    assert not TargetedAPGD(threat=LINF).targeted  # y is the label, not the class to reach
