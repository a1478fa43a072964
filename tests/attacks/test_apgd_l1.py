"""APGD in L1: linear models, its first points by hand, and how steps and their number of entries follow the search."""

from itertools import pairwise

import pytest
import torch
from linear import Noisy, TwoClasses, batch, broken, classified, cnn, falsified, keys, optimum

from lit_robust.attacks import APGD, TargetedAPGD
from lit_robust.attacks.apgd_climb import Stage
from lit_robust.attacks.apgd_l1 import SparseClimb, sparse_ascent
from lit_robust.losses import negative_margin
from lit_robust.threat import ThreatModel

SHAPE = (3, 4, 4)
L1 = ThreatModel("0.5", "l1")
ONE, THREE = ((1, 1),), ((3, 0.3), (2, 0.3), (1, 0.4))  # stages
each_schedule = pytest.mark.parametrize("stages", [ONE, THREE], ids=["one stage", "three stages"])
MODELS = {"deterministic": cnn(), "random": Noisy(cnn(), 0.02)}
each_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def weights():
    return 0.3 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def middle(n):
    return torch.full((n, *SHAPE), 0.5, dtype=torch.float64)


def points_of(attack, model, x, y):
    """What the attack shows the model, and what it returns."""
    seen = []
    handle = model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
    x_adv = attack(model, x, y, key=keys(len(x)))
    handle.remove()
    return seen, x_adv


@each_schedule
@pytest.mark.parametrize(("low", "high", "share"), [(0.5, 0.5, 0.9999), (0.1, 0.9, 0.99)])
def test_in_l1_apgd_reaches_the_optimum_of_a_linear_model(low, high, share, stages):
    # Some four entries of the image are driven to the edge of the box. The published form gets no farther than that in
    # general: it never steps along a single entry, nor asks which entries the box still lets move.
    threat, w = ThreatModel(2, "l1"), weights()
    x, y = batch(8, size=4, low=low, high=high)[0], torch.zeros(8, dtype=torch.long)
    x_adv = APGD(threat=threat, loss=negative_margin, stages=stages)(TwoClasses(w), x, y, key=keys(8))
    best = (optimum(-w, x, threat) * -w).flatten(1).sum(1)
    reached = ((x - x_adv) * w).flatten(1).sum(1) / best
    assert share <= reached.min()
    assert reached.max() <= 1 + 1e-9
    assert threat.contains(x_adv, x).all()


def test_the_first_points_in_l1_are_the_published_ones():
    # Two images in one batch: the second starts elsewhere, but its steps are the same.
    w, threat = weights(), ThreatModel("0.25", "l1")
    seen, _ = points_of(APGD(threat=threat, steps=100), TwoClasses(w), middle(2), torch.zeros(2, dtype=torch.long))
    assert threat.distance(seen[0], middle(2)).tolist() == pytest.approx([0.25] * 2)
    top = w.abs().flatten().topk(10).indices  # a fifth of 48 entries, rounded up
    step = torch.zeros(48, dtype=torch.float64).scatter(0, top, 0.25 / 10 * -w.flatten()[top].sign()).view(SHAPE)
    for before, after in pairwise(seen[:5]):
        torch.testing.assert_close(after, threat.project(before + step, middle(2)))  # no momentum
    # After the first check (4 steps) as many entries as two thirds of those that the best point changes.
    losses = torch.stack([-(point * w).flatten(1).sum(1) for point in seen[:5]])
    best = torch.stack(seen[:5])[losses.argmax(0), torch.arange(2)]
    for i in range(2):
        count = -(-2 * int((best[i] != 0.5).sum()) // 3)
        top = w.abs().flatten().topk(count).indices
        step = torch.zeros(48, dtype=torch.float64).scatter(0, top, 0.25 / count * -w.flatten()[top].sign())
        expected = threat.project(best[i : i + 1] + step.view(SHAPE), middle(1))
        torch.testing.assert_close(seen[5][i : i + 1], expected)


@pytest.mark.parametrize(("steps", "interval"), [(100, 4), (200, 8), (40, 1), (10, 1), (60, 2)])
def test_checks_come_at_every_25th_part_of_the_steps(monkeypatch, steps, interval):
    at, step_of = [], {"now": 0}
    advance = SparseClimb.advance

    def counting(self, step):
        step_of["now"] = step
        advance(self, step)

    monkeypatch.setattr(SparseClimb, "advance", counting)
    monkeypatch.setattr(SparseClimb, "check", lambda self: at.append(step_of["now"]))
    APGD(threat=L1, steps=steps)(cnn(), *batch(2), key=keys(2))
    assert at == list(range(interval, steps, interval))


def test_a_check_sets_entries_and_steps():
    changed = [19, 18, 20, 3, 0]  # of the best perturbation now
    before = [20, 20, 20, 30, 0]
    size = [0.6, 0.6, 0.06, 0.1, 0.12]
    x = torch.full((5, *SHAPE), 0.5)
    climb = SparseClimb.begin(Stage(threat=ThreatModel("0.6", "l1"), steps=100, passes=0, alone=True, rho=0.75), x, x)
    assert climb.entries.tolist() == [10] * 5
    assert climb.changed.tolist() == [48] * 5
    assert climb.size.tolist() == pytest.approx([0.6] * 5)
    climb.x_adv, climb.x_best, climb.grad, climb.grad_best = x - 0.1, x.clone(), x + 2, x + 3
    for i, count in enumerate(changed):
        climb.x_best[i].view(-1)[:count] += 0.1
    climb.changed, climb.size = torch.tensor(before), torch.tensor(size)
    climb.check()
    assert climb.entries.tolist() == [13, 12, 14, 2, 1]
    assert climb.changed.tolist() == changed
    assert climb.size.tolist() == pytest.approx([0.4, 0.6, 0.06, 0.6, 0.08])
    for i, back in enumerate([False, True, False, True, False]):
        assert torch.equal(climb.x_adv[i], climb.x_best[i] if back else x[i] - 0.1)
        assert torch.equal(climb.grad[i], x[i] + (3 if back else 2))


def test_a_step_spreads_over_the_largest_entries_of_each_sample():
    grad = torch.tensor([[3.0, -2, 1, 0], [1, -1, 1, 0.5], [0, 0, 0, 0], [0, -5, 0, 0], [1e-30, 2e-30, 0, 0]])
    step = sparse_ascent(grad, torch.tensor([2, 1, 3, 4, 1]))
    third = 1 / 3
    expected = [[0.5, -0.5, 0, 0], [third, -third, third, 0], [0] * 4, [0, -1, 0, 0], [0, 1, 0, 0]]
    torch.testing.assert_close(step, torch.tensor(expected))  # of equal entries all are taken, and zeros stay
    assert sparse_ascent(grad[:0], torch.zeros(0, dtype=torch.long)).shape == (0, 4)


def test_the_start_in_l1_is_sparse_and_random_on_the_surface_of_the_ball():
    x, y = batch(8, low=0.2, high=0.8)
    starts = [points_of(APGD(threat=L1, steps=1), cnn(), x, y)[0][0] for _ in range(2)]
    assert torch.equal(*starts)
    changed = (starts[0] != x).flatten(1)
    assert changed.any(1).all()
    assert changed.double().mean() < 0.1
    assert not torch.equal(changed[0], changed[1])
    assert L1.distance(starts[0], x).tolist() == pytest.approx([0.5] * 8)
    other = APGD(threat=L1, steps=1)(cnn(), x, y, key=keys(8, seed=1))
    assert not torch.equal(other, APGD(threat=L1, steps=1)(cnn(), x, y, key=keys(8)))


@each_schedule
@pytest.mark.parametrize("kind", [APGD, TargetedAPGD])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [0, "0.01", 3, 40])
def test_in_l1_answers_are_inside(kind, stages, dtype, eps):
    threat = ThreatModel(eps, "l1")
    x, y = batch(5, dtype=dtype)
    x = (3 * x - 1).clamp(0, 1)
    attack = kind(threat=threat, steps=11, stages=stages)
    for x_adv in (attack(cnn(dtype=dtype), x, y, key=keys(5)), falsified(attack, cnn(dtype=dtype), x, y)):
        assert x_adv.dtype == dtype
        assert threat.contains(x_adv, x).all()
    assert attack(cnn(dtype=dtype), x[:0], y[:0]).shape == x[:0].shape


@each_schedule
@each_model
@pytest.mark.parametrize("way", ["call", "falsify"])
def test_in_l1_a_batch_of_one_gives_what_a_batch_gives(model, stages, way):
    attack, key = APGD(threat=L1, steps=12, stages=stages), keys(8)
    x, y = classified(model, 8)

    def run(rows):
        if way == "call":
            return attack(model, x[rows], y[rows], key=key[rows])
        return falsified(attack, model, x[rows], y[rows], key[rows])

    whole, order = run(torch.arange(8)), torch.tensor([3, 6, 0, 7, 5, 1, 4, 2])
    single = torch.cat([run(torch.tensor([i])) for i in range(8)])
    torch.testing.assert_close(single, whole, rtol=0, atol=1e-9)
    torch.testing.assert_close(run(order), whole[order], rtol=0, atol=1e-9)
    if way == "falsify":
        assert 0 < broken(model, whole, y).sum() < 8


@each_schedule
def test_leaving_changes_nothing_in_l1(stages):
    model = cnn()
    x, y = classified(model, 16)
    attack = APGD(threat=L1, steps=15, stages=stages)
    leaving, staying = (falsified(attack, model, x, y, leave=leave) for leave in (True, False))
    torch.testing.assert_close(leaving, staying, rtol=0, atol=1e-9)
    assert 0 < broken(model, leaving, y).sum() < 16
