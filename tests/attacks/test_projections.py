"""Projections against bisection on the multiplier, against random feasible points, and in float32."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_robust import projections
from lit_robust.threat import ThreatModel

NORMS = ["linf", "l2", "l1", "l0", "box"]
ORDER = {"l2": 2, "l1": 1}
CHECKED = settings(deadline=None, derandomize=True, max_examples=80)
drawn = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10_000),
        "n": st.integers(1, 4),
        "d": st.integers(1, 40),
        "share": st.floats(0.0, 1.2),
        "spread": st.sampled_from([0.01, 0.3, 1.0, 30.0]),
        "edges": st.booleans(),
        "sparse": st.booleans(),
    }
)


def case(norm, seed, n, d, share, spread, edges, sparse):
    """A threat, originals (some on the edges of the box) and candidates (some unchanged in some entries)."""
    generator = torch.Generator().manual_seed(seed)

    def rand():
        return torch.rand(n, d, generator=generator, dtype=torch.float64)

    x = (3 * rand() - 1).clamp(0, 1) if edges else rand()
    delta = spread * (2 * rand() - 1) * ((rand() < 0.5) if sparse else 1.0)
    diameter = {"linf": 1.0, "box": 1.0, "l2": d**0.5, "l1": float(d), "l0": float(d)}[norm]
    eps = share * diameter
    eps = {"l0": round(eps), "linf": min(eps, 1.0), "box": 1}.get(norm, eps)
    return ThreatModel(eps, norm), x, x + delta, generator


def bisected(v, x, radius, order):
    """Euclidean projection by bisection on the multiplier of the norm constraint, in float64."""

    def at(multiplier):
        # argmin ½|δ − v|² + m·|δ|₁ or ½|δ − v|² + ½m·|δ|₂², entry by entry, then cut by the box.
        delta = v / (1 + multiplier) if order == 2 else torch.sign(v) * (v.abs() - multiplier).clamp(min=0)
        return torch.minimum(torch.maximum(delta, -x), 1 - x)

    def inside(delta):
        return torch.linalg.vector_norm(delta, ord=order, dim=1, keepdim=True) <= radius

    low = torch.zeros(len(v), 1, dtype=torch.float64)
    high = torch.full_like(low, 1e13)
    for _ in range(150):
        middle = (low + high) / 2
        low, high = torch.where(inside(at(middle)), low, middle), torch.where(inside(at(middle)), middle, high)
    return torch.where(inside(at(0.0)), at(0.0), at(high))


@pytest.mark.parametrize("norm", ["l2", "l1"])
@given(drawn=drawn)
@CHECKED
def test_projection_equals_bisection_on_the_multiplier(norm, drawn):
    threat, x, x_adv, _ = case(norm, **drawn)
    expected = x + bisected(x_adv - x, x, threat.radius, ORDER[norm])
    torch.testing.assert_close(threat.project(x_adv, x), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("norm", NORMS)
@given(drawn=drawn)
@CHECKED
def test_projection_is_allowed_and_idempotent(norm, drawn):
    threat, x, x_adv, _ = case(norm, **drawn)
    projected = threat.project(x_adv, x)
    assert threat.contains(projected, x).all()
    assert projected.min() >= 0
    assert projected.max() <= 1
    torch.testing.assert_close(threat.project(projected, x), projected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("norm", NORMS)
@given(drawn=drawn)
@CHECKED
def test_projection_keeps_what_is_allowed(norm, drawn):
    threat, x, x_adv, _ = case(norm, **drawn)
    allowed = x + 0.999 * (threat.project(x_adv, x) - x)
    torch.testing.assert_close(threat.project(allowed, x), allowed, rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
@given(drawn=drawn)
@CHECKED
def test_no_random_allowed_point_is_nearer(norm, drawn):
    threat, x, x_adv, generator = case(norm, **drawn)
    best = (threat.project(x_adv, x) - x_adv).square().sum(1)
    for _ in range(10):
        other = torch.rand(x.shape, generator=generator, dtype=torch.float64)
        if norm == "l0":
            keep = torch.rand(x.shape, generator=generator).topk(min(int(threat.exact), x.shape[1]), dim=1).indices
            other = x.scatter(1, keep, x_adv.clamp(0, 1).gather(1, keep))
        elif norm != "box":
            # Radially towards the image, which stays in the box.
            other = x + (other - x) * (threat.radius / threat.distance(other, x)).clamp(max=1)[:, None]
        assert threat.contains(other, x).all()
        assert (best <= (other - x_adv).square().sum(1) + 1e-9).all()


@pytest.mark.parametrize("norm", NORMS)
def test_projection_of_a_row_does_not_depend_on_its_batch(norm):
    threat, x, x_adv, _ = case(norm, 0, 8, 30, 0.2, 1.0, True, False)
    whole = threat.project(x_adv, x)
    for i in range(8):
        assert torch.equal(threat.project(x_adv[i : i + 1], x[i : i + 1])[0], whole[i])
    assert torch.equal(threat.project(x_adv.flip(0), x.flip(0)).flip(0), whole)


@pytest.mark.parametrize(("norm", "eps"), [("linf", "8/255"), ("l2", "0.5"), ("l2", "5"), ("l1", "1"), ("l1", "12")])
@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 224, 224)])
def test_float32_projections_of_full_size_images_are_allowed(norm, eps, shape):
    generator = torch.Generator().manual_seed(0)
    threat, x = ThreatModel(eps, norm), torch.rand(4, *shape, generator=generator)
    direction = torch.randn(x.shape, generator=generator)
    # From just outside the ball, as after a step, where most entries move by less than a rounding of the image.
    scale = 1.5 * threat.radius / threat.distance(x + 1e-3 * direction, x).float() * 1e-3
    x_adv = x + scale.view(-1, 1, 1, 1) * direction
    assert not threat.contains(x_adv, x).any()
    projected = threat.project(x_adv, x)
    assert threat.contains(projected, x).all()
    # And it uses the ball up.
    assert (threat.distance(projected, x) >= 0.99 * threat.radius).all()


def test_l2_projection_survives_a_radius_that_equals_the_room_up_to_rounding():
    # The float32 sum of squares may exceed the ball where the float64 one does not.
    for seed in range(300):
        generator = torch.Generator().manual_seed(seed)
        room = torch.rand(1, 40, generator=generator)
        room[0, 0] = 0.0
        magnitude = 2 * room
        radius = room.double().square().sum().sqrt().item() * (1 + 1e-9)
        projected = projections.project_l2(magnitude, room, radius)
        torch.testing.assert_close(projected, room, rtol=1e-5, atol=1e-6)


# --- balls of one radius a sample ---

LP = ["linf", "l2", "l1", "l0"]


def balls(norm, seed, n, d, share, spread, edges, sparse):
    """Perturbations and a radius for each, some of them 0, some beyond the perturbation."""
    _, x, x_adv, generator = case("l2", seed, n, d, share, spread, edges, sparse)
    delta = x_adv - x
    radius = 1.3 * torch.rand(n, generator=generator, dtype=torch.float64) * projections.length(delta, norm)
    radius[torch.rand(n, generator=generator) < 0.2] = 0.0
    return delta, radius.floor() if norm == "l0" else radius


@pytest.mark.parametrize("norm", LP)
@given(drawn=drawn)
@CHECKED
def test_balls_equal_the_projection_without_a_box(norm, drawn):
    delta, radius = balls(norm, **drawn)
    projected = projections.project_balls(delta, radius, norm)
    room = torch.full_like(delta, 1e9)  # the box is far away
    for row, one, r in zip(projected, delta, radius, strict=True):
        size = one.abs()[None]
        if norm == "linf":
            expected = size.clamp(max=r)
        elif norm == "l0":
            expected = projections.project_l0(size, room[:1], int(r))
        else:
            expected = {"l2": projections.project_l2, "l1": projections.project_l1}[norm](size, room[:1], float(r))
        torch.testing.assert_close(row, torch.copysign(expected[0], one), rtol=0, atol=1e-9)


@pytest.mark.parametrize("norm", LP)
@given(drawn=drawn)
@CHECKED
def test_balls_hold_what_they_are_given_and_keep_what_is_inside(norm, drawn):
    delta, radius = balls(norm, **drawn)
    projected = projections.project_balls(delta, radius, norm)
    assert (projections.length(projected, norm) <= radius * (1 + 1e-9) + 1e-12).all()
    inside = projections.length(delta, norm) <= radius
    torch.testing.assert_close(projected[inside], delta[inside], rtol=0, atol=1e-15)
    for i in range(len(delta)):  # each sample on its own
        alone = projections.project_balls(delta[i : i + 1], radius[i : i + 1], norm)
        torch.testing.assert_close(alone[0], projected[i], rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm", LP)
def test_balls_of_large_float32_perturbations(norm):
    generator = torch.Generator().manual_seed(0)
    delta = torch.randn(3, 150_528, generator=generator)
    radius = torch.tensor([0.3, 0.9, 2.0]) * projections.length(delta, norm).clamp(max=5000)
    radius = radius.floor() if norm == "l0" else radius
    got = projections.length(projections.project_balls(delta, radius, norm), norm)
    torch.testing.assert_close(got, torch.minimum(radius, projections.length(delta, norm)), rtol=1e-4, atol=0)


def test_in_l0_exactly_so_many_entries_stay_also_where_they_tie():
    delta = torch.tensor([[0.5, -0.5, 0.5, 0.5], [0.0, 2.0, 0.0, -1.0], [1.0, 2.0, 3.0, 4.0]])
    projected = projections.project_balls(delta, torch.tensor([2.0, 3.0, 0.0]), "l0")
    assert projections.length(projected, "l0").tolist() == [2, 2, 0]
    assert torch.equal(projected[1], delta[1])
    empty = projections.project_balls(delta[:0], torch.zeros(0), "l0")
    assert empty.shape == (0, 4)
