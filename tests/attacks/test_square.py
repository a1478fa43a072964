"""Square: the optimum of linear models, what a proposal changes, its queries, and images of every shape."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from linear import Noisy, TwoClasses, batch, broken, classified, cnn, falsified, keys, optimum
from torch import nn

from lit_robust.attacks.base import prepare, searching
from lit_robust.attacks.square import Square
from lit_robust.attacks.square_patterns import _hill
from lit_robust.attacks.worst import Restarts
from lit_robust.counting import CountingModel
from lit_robust.errors import UserError
from lit_robust.losses import margin
from lit_robust.threat import ThreatModel

LINF, L2, L1 = ThreatModel("10/255"), ThreatModel("0.3", "l2"), ThreatModel("2", "l1")
THREATS = [LINF, L2, L1]
DIAMETER = {"linf": lambda d: 1.0, "l2": lambda d: d**0.5, "l1": float}
by_name = {"ids": str}


def images(n, shape, seed=0, dtype=torch.float64):
    """Random images, a third of whose entries lie on each edge of the box."""
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.rand(n, *shape, generator=generator, dtype=dtype) - 1).clamp(0, 1)


def weights(shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def seen(model, run):
    """What `run` shows the model, and what it returns."""
    inputs = []
    handle = model.register_forward_pre_hook(lambda _, given: inputs.append(given[0].clone()))
    try:
        result = run()
    finally:
        handle.remove()
    return inputs, result


def margins(model, x, y):
    with torch.no_grad():
        return margin(model(x), y)


def test_linf_reaches_the_optimum_of_a_linear_model():
    shape = (1, 5, 7)
    w, x = weights(shape), images(6, shape)
    x_adv = Square(threat=LINF, queries=1500)(TwoClasses(w, 100.0), x, torch.zeros(6, dtype=torch.long), key=keys(6))
    torch.testing.assert_close(x_adv, x + optimum(-w, x, LINF))


@pytest.mark.parametrize(("threat", "share"), [(L2, 0.65), (L1, 0.7)], **by_name)
def test_l2_and_l1_come_near_the_optimum_of_a_linear_model(threat, share):
    shape = (1, 5, 7)
    w, x = weights(shape), images(6, shape)
    x_adv = Square(threat=threat, queries=1500)(TwoClasses(w, 100.0), x, torch.zeros(6, dtype=torch.long), key=keys(6))
    best = (optimum(-w, x, threat) * -w).flatten(1).sum(1)
    reached = ((x - x_adv) * w).flatten(1).sum(1) / best
    assert reached.min() >= share
    assert reached.max() <= 1 + 1e-9


def test_linf_breaks_what_can_be_broken_and_nothing_else():
    shape, y = (1, 5, 5), torch.zeros(8, dtype=torch.long)
    w, x = weights(shape), images(8, shape)
    best = (optimum(-w, x, LINF) * -w).flatten(1).sum(1)
    factor = torch.tensor([0.5, 0.99, 1.01, 2.0] * 2)  # of what the margin would have to be lowered by

    class Shifted(TwoClasses):
        def forward(self, z):
            return super().forward(z) + torch.stack([shift, -shift], 1) / 2

    shift = factor * best - (x * w).flatten(1).sum(1)
    found = falsified(Square(threat=LINF, queries=1500), Shifted(w), x, y, leave=False)
    assert torch.equal(margins(Shifted(w), found, y) < 0, factor < 1)


@pytest.mark.parametrize("threat", THREATS, **by_name)
def test_search_returns_the_lowest_margin_that_the_model_saw(threat):
    model = cnn()
    x, y = classified(model, 8)
    points, x_adv = seen(model, lambda: Square(threat=threat, queries=150)(model, x, y, key=keys(8)))
    looks = torch.stack([margins(model, point, y) for point in points])
    lowest = looks.min(0)
    assert len(points) == 150
    assert (lowest.indices > 0).all()
    assert (looks[-1] > lowest.values).any()  # the last point is not always the best
    expected = torch.stack(points)[lowest.indices, torch.arange(8)]
    torch.testing.assert_close(x_adv, expected, rtol=0, atol=0)


def test_a_linf_proposal_takes_a_window_of_the_best_image_to_the_ends_of_its_range():
    model, attack = cnn(size=9), Square(threat=LINF, queries=120)
    x, y = classified(model, 6, size=9)
    points, _ = seen(model, lambda: attack(model, x, y, key=keys(6)))
    low, high = (LINF.project(x + end, x) for end in (-LINF.radius, LINF.radius))
    best, lowest, sides = points[0], margins(model, points[0], y), attack._sides(9, 9)
    assert ((best == low) | (best == high)).all()
    assert torch.equal(best.eq(high)[:, :, :1].expand_as(x), best.eq(high))  # stripes
    touched = torch.zeros(9, 9, dtype=torch.bool)
    for point, side in zip(points[1:], sides[1:], strict=True):
        assert ((point == low) | (point == high)).all()
        for before, after in zip(best, point, strict=True):
            changed = (before != after).any(0).nonzero()
            touched[changed[:, 0], changed[:, 1]] = True
            if len(changed):
                assert ((changed.amax(0) - changed.amin(0)) < side).all()
                for upper in (after == high[0]).unbind(0) if side == 9 else ():
                    assert upper.all() or not upper.any()
        value = margins(model, point, y)
        best = torch.where((value < lowest).view(-1, 1, 1, 1), point, best)
        lowest = torch.minimum(value, lowest)
    assert touched.all()  # the last row and column too


@pytest.mark.parametrize("threat", [L2, L1], **by_name)
def test_an_l2_or_l1_proposal_changes_two_windows_and_the_scale_of_the_rest(threat):
    # The box is out of reach, and with one channel nothing is over the radius before the projection.
    model, attack = cnn(size=15, channels=1), Square(threat=threat, queries=60)
    x, y = classified(model, 4, size=15, channels=1, low=0.4, high=0.6)
    points, _ = seen(model, lambda: attack(model, x, y, key=keys(4)))
    best, lowest, sides = points[0], margins(model, points[0], y), attack._sides(15, 15)
    for point, side in zip(points[1:], sides[1:], strict=True):
        assert threat.distance(point, x).tolist() == pytest.approx([threat.radius] * 4, abs=1e-6)
        if side <= 7:
            old, new = ((image - x).flatten(1) for image in (best, point))
            scale = (new / torch.where(old == 0, torch.nan, old)).nanmedian(1, keepdim=True).values
            changed = (new - scale * old).abs() > 1e-6 * threat.radius
            assert (changed.sum(1) <= 2 * side * side).all()
            assert changed.any()
        value = margins(model, point, y)
        best = torch.where((value < lowest).view(-1, 1, 1, 1), point, best)
        lowest = torch.minimum(value, lowest)


def test_windows_shrink_as_published():
    # √(p · 32 · 32), where p is 0.8, then halved after 10, 50, 200 ... 8000 of 10,000.
    expected = {0: 29, 11: 20, 51: 14, 201: 10, 501: 7, 1001: 5, 2001: 4, 4001: 3, 6001: 2, 8001: 1}
    sides = Square(threat=LINF, queries=10_000)._sides(32, 32)
    assert len(sides) == 10_000
    shrinks = {i - 1: side for i, side in enumerate(sides) if i == 1 or (i > 1 and side != sides[i - 1])}
    assert shrinks == expected
    assert Square(threat=LINF, queries=101)._sides(32, 32)[1:] == [sides[1 + int(i / 101 * 10_000)] for i in range(100)]


def test_windows_of_bumps_are_odd_and_three_wide_at_least():
    for threat in (L2, L1):
        sides = Square(threat=threat, queries=500)._sides(32, 32)[1:]
        assert (sides[0], sides[-1]) == (29, 3)
        assert all(side % 2 for side in sides)
        assert set(Square(threat=threat, queries=50)._sides(2, 7)[1:]) == {2}


def test_a_hill_falls_off_in_squares():
    # The sum of 1 / k² from the distance + 1 on, to k = 3.
    middle, ring, edge = 1 + 1 / 4 + 1 / 9, 1 / 4 + 1 / 9, 1 / 9
    expected = torch.tensor([[edge, ring, ring, ring, edge], [edge, ring, middle, ring, edge]])
    expected = torch.cat([expected, expected[:1]])
    torch.testing.assert_close(_hill(3, 5, 2).float(), expected / expected.norm())
    middle, ring = 1 + 1 / 16, 1 / 16
    expected = torch.tensor([[ring, middle, ring]])
    torch.testing.assert_close(_hill(1, 3, 1).float(), expected / expected.sum())


@pytest.mark.parametrize("threat", THREATS, **by_name)
def test_queries_are_forward_passes_and_broken_samples_leave(threat):
    model = cnn(classes=3)
    x, y = classified(model, 16, classes=3)
    counting, attack = CountingModel(model, keys(16)), Square(threat=threat, queries=60)
    points, _ = seen(model, lambda: attack(counting, x, y, key=keys(16)))
    assert counting.forwards.tolist() == [60] * 16
    assert counting.backwards.sum() == 0
    assert not any(point.requires_grad for point in points)
    verdicts = torch.stack([broken(model, point, y) for point in points])
    fallen = verdicts.any(0)
    assert 0 < fallen.sum() < 16
    counting = CountingModel(model, keys(16))
    found = falsified(attack, counting, x, y)
    first = torch.where(fallen, verdicts.int().argmax(0), 59)
    assert (first[fallen] > 0).any()
    assert torch.equal(counting.forwards, first + 1)
    lowest = torch.stack([margins(model, point, y) for point in points]).argmin(0)
    chosen = torch.where(fallen, first, lowest)
    torch.testing.assert_close(found, torch.stack(points)[chosen, torch.arange(16)], rtol=0, atol=1e-9)


def test_the_model_runs_without_a_graph():
    class Asks(nn.Module):
        def forward(self, x):
            asked.append(torch.is_grad_enabled())
            return x.flatten(1)[:, :4]

    asked = []
    Square(threat=LINF, queries=3)(Asks(), *batch(2), key=keys(2))
    assert asked == [False] * 3


@pytest.mark.parametrize("way", ["call", "falsify", "falsify without leaving"])
@pytest.mark.parametrize("random", [False, True])
@pytest.mark.parametrize("threat", THREATS, **by_name)
def test_a_sample_depends_neither_on_its_batch_nor_on_who_left(threat, random, way):
    def run(rows):
        if way == "call":
            return attack(model, x[rows], y[rows], key=key[rows])
        return falsified(attack, model, x[rows], y[rows], key[rows], leave=way == "falsify")

    model = Noisy(cnn(), 0.01) if random else cnn()
    attack, key = Square(threat=threat, queries=40), keys(8)
    x, y = classified(model, 8)
    whole, order = run(torch.arange(8)), torch.tensor([3, 6, 0, 7, 5, 1, 4, 2])
    shuffled = torch.empty_like(whole)
    shuffled[order] = run(order)
    torch.testing.assert_close(shuffled, whole, rtol=0, atol=1e-9)
    for i in (0, 5, 7):
        torch.testing.assert_close(run(torch.tensor([i]))[0], whole[i], rtol=0, atol=1e-9)
    if way == "falsify":
        staying = falsified(attack, model, x, y, key, leave=False)
        torch.testing.assert_close(whole, staying, rtol=0, atol=1e-9)
        assert 0 < broken(model, whole, y).sum() < 8


@given(
    seed=st.integers(0, 10_000),
    norm=st.sampled_from(["linf", "l2", "l1"]),
    share=st.sampled_from([0.0, 0.003, 0.03, 0.3, 1.0]),
    n=st.integers(1, 4),
    shape=st.sampled_from([(1, 4, 4), (3, 4, 4), (1, 1, 1), (2, 3, 11), (3, 12, 5), (1, 16, 16)]),
    classes=st.integers(2, 4),
    queries=st.integers(1, 40),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    grey=st.booleans(),
)
@settings(deadline=None, derandomize=True, max_examples=150)
def test_every_image_that_the_model_sees_is_inside(seed, norm, share, n, shape, classes, queries, dtype, grey):
    d = shape[0] * shape[1] * shape[2]
    threat = ThreatModel(share * DIAMETER[norm](d), norm)
    # One grey level rounds alike everywhere, which adds up.
    x = images(n, shape, seed, dtype) if not grey else torch.full((n, *shape), 0.7, dtype=dtype)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(d, classes)).to(dtype)
    y, before = torch.zeros(n, dtype=torch.long), x.clone()
    attack = Square(threat=threat, queries=queries)
    points, x_adv = seen(model, lambda: attack(model, x, y, key=keys(n)))
    assert len(points) == queries
    for point in (*points, x_adv, falsified(attack, model, x, y)):
        assert point.shape == x.shape
        assert point.dtype == dtype
        assert point.min() >= 0
        assert point.max() <= 1
        assert threat.contains(point, x).all()
    assert torch.equal(x, before)


@pytest.mark.parametrize("threat", THREATS, **by_name)
def test_an_adversarial_that_was_seen_is_what_is_returned(threat):
    model = cnn(dtype=torch.float32)
    x, y = classified(model, 32, dtype=torch.float32)
    counting = CountingModel(model, keys(32))
    found = falsified(Square(threat=threat, queries=60), counting, x, y)
    left = counting.forwards < 60
    assert left.any()
    assert broken(model, found, y)[left].all()


@pytest.mark.parametrize("threat", [ThreatModel(0, norm) for norm in DIAMETER], **by_name)
def test_a_radius_of_zero_leaves_the_image(threat):
    model = cnn()
    x, y = classified(model, 4)
    assert torch.equal(Square(threat=threat, queries=20)(model, x, y, key=keys(4)), x)


def test_one_hot_probabilities_count_as_their_label():
    model = cnn()
    x, y = classified(model, 4)
    hot, attack = nn.functional.one_hot(y, 4).double(), Square(threat=LINF, queries=20)
    assert torch.equal(attack(model, x, hot, key=keys(4)), attack(model, x, y, key=keys(4)))


def test_restarts_begin_elsewhere_and_raise_no_margin():
    model, attack = cnn(), Square(threat=LINF, queries=20)
    x, y = classified(model, 8)
    points, best = seen(model, lambda: Restarts(attack=attack, n=2)(model, x, y, key=keys(8)))
    assert not torch.equal(points[0], points[21])
    assert (margins(model, best, y) <= margins(model, attack(model, x, y, key=keys(8)), y)).all()


def test_a_memory_layout_other_than_the_default_changes_nothing():
    model, attack = cnn(), Square(threat=LINF, queries=20)
    x, y = classified(model, 4)
    with searching(model):
        answers = [
            attack.search(model, *prepare(images, y, keys(4)))
            for images in (x, x.to(memory_format=torch.channels_last))
        ]
    torch.testing.assert_close(*answers)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queries": 0}, "expected queries to be 1 or more, got 0"),
        ({"p_init": 0}, "expected p_init to be above 0 and at most 1, got 0"),
        ({"p_init": 1.5}, "expected p_init to be above 0 and at most 1, got 1.5"),
        ({"threat": ThreatModel(3, "l0")}, "expected a threat model in linf, l2 or l1, got L0 3"),
        ({"threat": ThreatModel.box()}, "expected a threat model in linf, l2 or l1, got box"),
        ({"threat": ThreatModel(None, "l2")}, "expected a threat model with a radius"),
    ],
    ids=str,
)
def test_impossible_options_of_square_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Square(**{"threat": LINF, **options})


def test_its_name_says_what_is_run():
    assert str(Square(threat=ThreatModel("8/255"))) == "Square-5000 L∞ 8/255, p 0.8"
    assert Square(threat=LINF, queries=10).label == "Square-10"
