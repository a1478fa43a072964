"""ZOO: the optimum of linear models, its derivatives and queries, and what stops it."""

import pytest
import torch
from linear import Noisy, TwoClasses, classified, cnn, falsified, keys
from torch import nn

from lit_robust.attacks.zoo import ZOO, _Descent, _pixel
from lit_robust.counting import CountingModel
from lit_robust.errors import UserError
from lit_robust.losses import margin
from lit_robust.sampling import Noise

SHAPE = (3, 4, 4)
QUICK = ZOO(iterations=12, coordinates=16, searches=3, c=10.0, lr=0.1)


def linear(n=4):
    """A linear model, images near its boundary, their labels and their distances from it."""
    w = 0.3 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = 0.3 + 0.4 * torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    model = TwoClasses(w, -(x.flatten(1) @ w.flatten()).mean())
    with torch.no_grad():
        gap = margin(model(x), torch.zeros(n, dtype=torch.long))
    return model, x, (gap < 0).long(), gap.abs() / w.norm()


class Quantised(nn.Module):
    """A network that sees 16 grey levels."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network((x * 15).round() / 15)


def test_distances_come_near_the_optimum_of_a_linear_model():
    model, x, y, best = linear()
    distance = ZOO(iterations=100, coordinates=24).distances(model, x, y, key=keys(4))
    assert (distance >= best * (1 - 1e-6)).all()
    assert (distance <= best * 1.03 + 0.02).all()  # a step moves 24 entries by 0.005 at most


def test_more_values_of_c_come_nearer():
    model, x, y, best = linear()
    few, many = (
        ZOO(iterations=60, coordinates=48, searches=searches, c=1.0).distances(model, x, y, key=keys(4)) / best
        for searches in (1, 6)
    )
    assert (many <= few).all()
    assert many.mean() < 0.8 * few.mean()


@pytest.mark.parametrize("c", [0.5, 2.0])
def test_derivatives_are_those_of_the_published_loss(c):
    model = cnn(size=4)
    x, y = classified(model, 5, size=4)
    descent = _Descent(x, y, Noise(keys(5)))
    descent.w += 0.01 * torch.randn(descent.w.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    descent.x_adv = _pixel(descent.w)
    rows, weight = torch.tensor([0, 2, 3]), torch.full((3,), c, dtype=torch.float64)
    attack = ZOO(coordinates=20, confidence=0.3)
    with torch.no_grad():
        loss, success, estimate, places = attack._look(model, descent, rows, weight, 1)
    w = descent.w[rows].requires_grad_()
    x_adv = (w.tanh() + 1) / 2
    log_p = model(x_adv.view(3, *SHAPE)).log_softmax(1)
    others = log_p.scatter(1, y[rows, None], -torch.inf).amax(1)
    lead = log_p.gather(1, y[rows, None]).squeeze(1) - others
    expected = (x_adv - x[rows].flatten(1)).square().sum(1) + c * (lead + 0.3).clamp(min=0)
    torch.testing.assert_close(loss, expected.detach())
    assert torch.equal(success, lead <= -0.3)
    (grad,) = torch.autograd.grad(expected.sum(), w)
    torch.testing.assert_close(estimate, grad.gather(1, places), rtol=1e-5, atol=1e-7)
    assert all(len(set(chosen)) == 20 for chosen in places.tolist())


def test_each_coordinate_has_an_adam_of_its_own():
    x = torch.rand(2, *SHAPE, dtype=torch.float64)
    descent = _Descent(x, torch.zeros(2, dtype=torch.long), Noise(keys(2)))
    torch.testing.assert_close(descent.images, x, rtol=0, atol=1e-6)
    free = descent.w[1].clone().requires_grad_()
    slow = free.detach()[7:8].clone().requires_grad_()  # moves at every second step only
    adams = [torch.optim.Adam([t], 0.01) for t in (free, slow)]
    grads = torch.randn(6, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for step, grad in enumerate(grads):
        places = torch.arange(48) if step % 2 else torch.cat([torch.arange(7), torch.arange(8, 48)])
        descent.step(torch.tensor([1]), places[None], grad[places][None], 0.01)
        free.grad, slow.grad = grad, grad[7:8]
        adams[0].step()
        if step % 2:
            adams[1].step()
    expected = free.detach().clone()
    expected[7] = slow.detach()
    torch.testing.assert_close(descent.w[1], expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(descent.images[1].flatten(), (descent.w[1].tanh() + 1) / 2)
    torch.testing.assert_close(descent.images[0], x[0], rtol=0, atol=1e-6)


def test_c_grows_until_it_succeeds_and_is_bisected_from_then_on(monkeypatch):
    tried, succeeds = [], torch.tensor([[0, 0, 1, 0, 1], [1, 1, 0, 1, 0], [0, 0, 0, 0, 0]], dtype=torch.bool)

    def descend(self, model, descent, nearest, c, enough, first):
        tried.append(c)
        return succeeds[:, len(tried) - 1]

    monkeypatch.setattr(ZOO, "_descend", descend)
    model = cnn(size=4)
    x, y = classified(model, 3, size=4)
    ZOO(searches=5)(model, x, y, key=keys(3))
    rising, falling = [0.01, 0.1, 1, 0.55, 0.775], [0.01, 0.005, 0.0025, 0.00375, 0.003125]
    torch.testing.assert_close(
        torch.stack(tried, 1), torch.tensor([rising, falling, [0.01, 0.1, 1, 10, 100]], dtype=torch.float64)
    )


@pytest.mark.parametrize("chunk", [1, 7, 33, 4096])
def test_queries_are_counted_and_a_pass_is_bounded(chunk):
    model, sizes = cnn(size=4), []
    x, y = classified(model, 3, size=4)
    y[1] = (y[1] + 1) % 4  # wrong already: one look
    counting = CountingModel(model, keys(3))
    model.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    attack = ZOO(iterations=2, coordinates=5, searches=2, chunk=chunk)
    x_adv = attack(counting, x, y, key=keys(3))
    assert counting.forwards.tolist() == [1 + 2 * 2 * 11, 1, 1 + 2 * 2 * 11]
    assert counting.backwards.sum() == 0
    assert max(sizes[1:]) == min(chunk, 22)
    assert torch.equal(x_adv[1], x[1])
    whole = ZOO(iterations=2, coordinates=5, searches=2)(model, x, y, key=keys(3))
    torch.testing.assert_close(x_adv, whole, rtol=0, atol=1e-9)


def test_a_descent_that_stands_still_ends_and_leaves_the_pass():
    flat = Quantised(cnn(size=4))
    x, y = classified(flat, 2, size=4)
    x = (x * 15).round() / 15
    model = cnn(size=4)

    class Half(nn.Module):
        def forward(self, images):
            return torch.where(self.first(images), flat(images), model(images))

        def first(self, images):
            nearest = (images.flatten(1)[:, None] - x.flatten(1)).norm(dim=2).argmin(1)
            return (nearest == 0)[:, None]

    y = Half()(x).argmax(1)
    counting = CountingModel(Half(), keys(2))
    ZOO(iterations=20, coordinates=4, searches=1, c=1.0, abort_every=5)(counting, x, y, key=keys(2))
    # It looks at 0 and 5: the loss is the same at both, and the second descent goes on to the end.
    assert counting.forwards.tolist() == [1 + 6 * 9, 1 + 20 * 9]


def test_it_finds_nothing_where_small_changes_change_nothing():
    network = cnn(size=4)
    x, _ = classified(network, 6, size=4)
    x = (x * 15).round() / 15
    for model, found in ((network, True), (Quantised(network), False)):
        with torch.no_grad():
            y = model(x).argmax(1)
        distance = ZOO(iterations=40, coordinates=24, c=10.0, searches=2, lr=0.1).distances(model, x, y, key=keys(6))
        assert distance.isfinite().all() == found
        assert distance.isinf().all() != found


@pytest.mark.parametrize("way", ["call", "falsify", "falsify within eps"])
@pytest.mark.parametrize("random", [False, True])
def test_a_sample_depends_neither_on_its_batch_nor_on_who_left(random, way):
    def run(rows, leave=True):
        if way == "call":
            return attack(model, x[rows], y[rows], key=key[rows])
        return falsified(attack, model, x[rows], y[rows], key[rows], leave=leave)

    model = Noisy(cnn(size=4), 0.01) if random else cnn(size=4)
    options = {**vars(QUICK), "eps": 0.3 if way == "falsify within eps" else None}
    attack, key = ZOO(**options), keys(5)
    x, y = classified(model, 5, size=4)
    whole, order = run(torch.arange(5)), torch.tensor([3, 0, 4, 2, 1])
    torch.testing.assert_close(run(order), whole[order], rtol=0, atol=1e-7)
    for i in range(3):
        torch.testing.assert_close(run(torch.tensor([i])), whole[i : i + 1], rtol=0, atol=1e-7)
    if way == "falsify within eps":
        leaving, staying = ((run(torch.arange(5), flag) - x).flatten(1).norm(dim=1) for flag in (True, False))
        inside = staying.gt(0) & (staying <= 0.3)
        assert 0 < inside.sum() < 5
        assert torch.equal(leaving.gt(0) & (leaving <= 0.3), inside)


def test_samples_within_eps_leave():
    model = cnn(size=4)
    x, y = classified(model, 6, size=4)
    counts = []
    for leave in (True, False):
        counting = CountingModel(model, keys(6))
        falsified(ZOO(**{**vars(QUICK), "eps": 0.3}), counting, x, y, leave=leave)
        counts.append(counting.forwards)
    assert (counts[0] <= counts[1]).all()
    assert (counts[0] < counts[1]).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_answers_lie_in_the_box_and_a_confident_one_leads_by_the_confidence(dtype):
    model = cnn(size=4, dtype=dtype)
    x, y = classified(model, 6, size=4, dtype=dtype)
    x = (1.5 * x - 0.25).clamp(0, 1)
    with torch.no_grad():
        y = model(x).argmax(1)
    attack = ZOO(**{**vars(QUICK), "confidence": 0.2})
    x_adv = attack(model, x, y, key=keys(6))
    assert x_adv.dtype == dtype
    assert attack.threat_model.contains(x_adv, x).all()
    assert x_adv.isfinite().all()
    moved = (x_adv != x).flatten(1).any(1)
    assert moved.any()
    with torch.no_grad():
        assert (margin(model(x_adv), y)[moved] <= -0.2).all()


def test_repeated_rows_of_a_pass_count_each():
    counting = CountingModel(nn.Flatten(), keys(3))
    x = torch.rand(4, 1, 1, 2).requires_grad_()
    with Noise(keys(3)).rows(torch.tensor([2, 0, 2, 2])).keyed():
        out = counting(x)
    torch.autograd.grad(out.sum(), x)
    assert counting.forwards.tolist() == counting.backwards.tolist() == [1, 0, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "linf"}, "expected norm to be l2, which ZOO descends, got 'linf'"),
        ({"iterations": 0}, "expected iterations to be 1 or more, got 0"),
        ({"chunk": 0}, "expected chunk to be 1 or more, got 0"),
        ({"searches": 0}, "expected searches to be 1 or more, got 0"),
        ({"lr": 0}, "expected lr to be above 0, got 0"),
        ({"c": -1}, "expected c to be above 0, got -1"),
        ({"confidence": -1}, "expected confidence to be 0 or more, got -1"),
        ({"eps": -1}, "expected eps to be 0 or more, got -1"),
    ],
    ids=str,
)
def test_impossible_options_of_zoo_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        ZOO(**options)


def test_its_name_says_what_is_run():
    assert str(ZOO()) == "ZOO-1000 L2, any distance, 128 coordinates, c 0.01 x 9"
