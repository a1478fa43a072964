"""HopSkipJump against closed forms: the distance to a plane, the direction of a boundary, and the number of queries."""

import math

import pytest
import torch
from linear import TwoClasses, keys
from torch import nn

from lit_robust import sampling
from lit_robust.attacks import hop_skip_jump
from lit_robust.attacks.hop_skip_jump import HopSkipJump
from lit_robust.attacks.queries import Queries
from lit_robust.attacks.starts import FIRST, BlendedNoise, Given, NearestImage
from lit_robust.errors import UserError

SHAPE = (1, 3, 4)
D = 12
DUAL = {"l2": 2, "linf": 1}
each_norm = pytest.mark.parametrize("norm", ["l2", "linf"])


def weights(seed=0):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plane(margins, **options):
    """Images near the middle of the box whose margins of class 0 are those asked for, under one linear model."""
    w = weights()
    margins = torch.tensor(margins, dtype=torch.float64)
    x = 0.5 + margins.view(-1, 1, 1, 1) * w / w.square().sum()
    return TwoClasses(w, -0.5 * float(w.sum()), **options), x, torch.zeros(len(x), dtype=torch.long)


def asking(model, y, chunk=4096):
    noise, position = sampling.Noise(keys(len(y))), torch.arange(len(y))
    return Queries(attack=HopSkipJump(norm="l2"), model=model, y=y, noise=noise, position=position, chunk=chunk)


def beyond(model, n, seed=3):
    """Images that the model gives class 1."""
    pool = torch.rand(400, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return pool[model(pool).argmax(1) == 1][:n]


@each_norm
@pytest.mark.parametrize("kind", ["noise", "pool", "corner"])
def test_the_distance_to_a_plane_is_found_from_any_start(norm, kind):
    margins = [0.1, 0.3, 0.6]
    model, x, y = plane(margins)
    corner = torch.where(weights() < 0, 1.0, 0.0).expand_as(x).double()
    start = {"noise": BlendedNoise(), "pool": NearestImage().bound(beyond(model, 20)), "corner": Given(images=corner)}
    attack = HopSkipJump(norm=norm, steps=15, start=start[kind])
    found = attack.distances(model, x, y, key=keys(3))
    expected = torch.tensor(margins, dtype=torch.float64) / torch.linalg.vector_norm(weights(), ord=DUAL[norm])
    ratio = found / expected
    assert (ratio >= 1).all()
    assert (ratio <= 1.04).all()


@each_norm
def test_more_steps_come_nearer(norm):
    model, x, y = plane([0.2, 0.5, 0.8])
    few, many = (HopSkipJump(norm=norm, steps=steps).distances(model, x, y, key=keys(3)) for steps in (1, 10))
    assert (many <= few).all()
    assert many.mean() < 0.97 * few.mean()


@each_norm
def test_the_number_of_queries_is_that_of_the_paper(norm):
    steps, initial, most, gamma = 6, 20, 45, 2.0

    class Counts(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model, self.asked = model, {}

        def forward(self, x):
            step = sampling._current.get().step - FIRST
            name = "other" if step < 0 else ("bisect", "estimate", "jump")[step % 3]
            at = self.asked.setdefault(name, {})
            at[step // 3] = at.get(step // 3, 0) + len(x)
            return self.model(x)

    plain, x, y = plane([0.3])
    model = Counts(plain)
    start = beyond(plain, 1)
    attack = HopSkipJump(
        norm=norm,
        steps=steps,
        initial_gradient_queries=initial,
        max_gradient_queries=most,
        gamma=gamma,
        start=Given(images=start),
    )
    attack(model, x, y, key=keys(1))
    halvings = math.ceil(math.log2(D**1.5 / gamma if norm == "l2" else D**2 / gamma))
    assert sum(model.asked["other"].values()) == 3  # the image, its start and the answer
    assert model.asked["bisect"] == dict.fromkeys(range(steps + 1), halvings)
    assert model.asked["estimate"] == {t: int(min(initial * math.sqrt(t), most)) for t in range(1, steps + 1)}
    assert model.asked["estimate"][6] == most
    assert all(1 <= count <= 24 for count in model.asked["jump"].values())


@each_norm
def test_images_around_the_boundary_are_at_gamma_over_d_of_the_distance(norm, monkeypatch):
    calls, estimated = [], HopSkipJump._estimated

    def spy(self, ask, x_adv, delta, count, step):
        calls.append((x_adv, delta))
        return estimated(self, ask, x_adv, delta, count, step)

    monkeypatch.setattr(HopSkipJump, "_estimated", spy)
    model, x, y = plane([0.2, 0.5])
    attack = HopSkipJump(norm=norm, steps=3, gamma=0.7)
    attack(model, x, y, key=keys(2))
    assert calls[0][1].tolist() == [0.1, 0.1]
    for x_adv, delta in calls[1:]:
        torch.testing.assert_close(delta, 0.7 / D * attack.threat_model.distance(x_adv, x))
    # In L2, in both norms.
    seen = []
    handle = model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    x_adv, delta = calls[1]
    estimated(attack, asking(model, y), x_adv, delta, 7, 2)
    handle.remove()
    moves = seen[0].view(2, 7, *SHAPE) - x_adv[:, None]
    torch.testing.assert_close(moves.flatten(2).norm(dim=2), delta[:, None].expand(2, 7))


@each_norm
def test_bisection_ends_within_theta_of_the_boundary(norm):
    model, x, y = plane([0.3, 0.6])
    far = beyond(model, 2)
    attack = HopSkipJump(norm=norm)
    near = attack._bisected(asking(model, y), x, far, 0)
    theta = D**-1.5 if norm == "l2" else D**-2.0
    share = (attack.threat_model.distance(near, x) / attack.threat_model.distance(far, x))[:, None]
    assert (model(near).argmax(1) == 1).all()
    lower = (share - theta).view(-1, 1, 1, 1)
    if norm == "l2":
        before = x + lower * (far - x)
    else:
        bound = lower * (far - x).flatten(1).abs().amax(1).view(-1, 1, 1, 1)
        before = x + torch.clamp(far - x, -bound, bound)
    assert (model(before).argmax(1) == 0).all()


@each_norm
@pytest.mark.parametrize("lead", [0.0, 0.02, 1.0], ids=["on the boundary", "beside it", "far from it"])
def test_the_estimate_is_the_direction_of_the_boundary(norm, lead):
    # Away from class 0 the margin falls along -w. Beside the boundary most votes agree and their mean is subtracted.
    model, x, y = plane([0.0, 0.0])
    x = x - lead * weights() / weights().norm()
    attack = HopSkipJump(norm=norm)
    grad = attack._estimated(asking(model, y), x, torch.tensor([0.05, 0.1], dtype=x.dtype), 2000, 1)
    cosine = torch.cosine_similarity(grad.flatten(1), -weights().flatten()[None])
    assert (cosine > 0.97).all() if lead < 1 else (cosine.abs() < 0.9).all()
    assert grad.isfinite().all()


def test_directions_have_length_1_and_belong_to_step_draw_and_norm():
    noise = sampling.Noise(keys(2))
    u = hop_skip_jump._directions(noise, "l2", (5, *SHAPE), 1, 0, torch.float64)
    torch.testing.assert_close(u.flatten(2).norm(dim=2), torch.ones(2, 5, dtype=torch.float64))
    others = [("l2", 2, 0), ("l2", 1, 1), ("linf", 1, 0)]
    for norm, step, draw in others:
        other = hop_skip_jump._directions(noise, norm, (5, *SHAPE), step, draw, torch.float64)
        assert (other != u).all()
    assert torch.equal(hop_skip_jump._directions(noise, "l2", (3, *SHAPE), 1, 0, torch.float64), u[:, :3])


def test_a_jump_halves_until_it_is_adversarial_and_stays_where_it_never_is():
    # Class 1 is a shell: jumps from it that are too long leave it, those of the last image always do.
    class Shell(nn.Module):
        def forward(self, x):
            value = x[:, 0, 0, 0]
            inside = (value >= 0.4) & (value < 0.5)
            return torch.stack([torch.zeros_like(value), torch.where(inside, 1.0, -1.0).to(x.dtype)], 1)

    x = torch.zeros(3, *SHAPE, dtype=torch.float64)
    x[:, 0, 0, 0] = torch.tensor([0.4, 0.4, 0.49999999999], dtype=x.dtype)
    direction = torch.zeros_like(x)
    direction[:, 0, 0, 0] = 1
    size = torch.tensor([0.08, 0.36, 0.4], dtype=x.dtype)
    end = hop_skip_jump._jump(asking(Shell(), torch.zeros(3, dtype=torch.long)), x, direction, size, 1)
    assert end[:, 0, 0, 0].tolist() == pytest.approx([0.48, 0.49, 0.49999999999], abs=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_neither_theta_nor_delta_is_finer_than_the_precision(dtype):
    model, x, y = plane([0.3])
    model, x = model.to(dtype), x.to(dtype)
    attack = HopSkipJump(norm="l2", gamma=1e-30, steps=2, initial_gradient_queries=30)
    assert attack._halvings(x) == {torch.float32: 24, torch.float64: 53}[dtype]
    assert HopSkipJump(norm="linf", gamma=1e9)._halvings(x) == 0
    answer = attack(model, x, y, key=keys(1))
    assert answer.isfinite().all()
    assert model(answer).argmax(1) == 1


def test_memory_limits_change_nothing(monkeypatch):
    model, x, y = plane([0.2, 0.3, 0.5, 0.6])
    attack = HopSkipJump(norm="l2", steps=2)
    whole = attack(model, x, y, key=keys(4))
    monkeypatch.setattr(hop_skip_jump, "_ENTRIES", 2 * 32 * D)
    torch.testing.assert_close(attack(model, x, y, key=keys(4)), whole, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "expected steps to be at least 1, got 0"),
        ({"initial_gradient_queries": 0}, "expected initial_gradient_queries to be at least 1, got 0"),
        ({"max_gradient_queries": -1}, "expected max_gradient_queries to be at least 1, got -1"),
        ({"gamma": 0}, "expected gamma to be above 0, got 0"),
        ({"gamma": math.nan}, "expected gamma to be above 0, got nan"),
    ],
    ids=str,
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        HopSkipJump(norm="l2", **options)


def test_defaults_are_those_of_the_paper_and_of_foolbox():
    attack = HopSkipJump(norm="l2")
    assert (attack.steps, attack.initial_gradient_queries, attack.max_gradient_queries) == (64, 100, 10_000)
    assert (attack.gamma, attack.start) == (1.0, BlendedNoise(directions=1000, steps=50))
    assert attack.label == "HopSkipJump-64"
