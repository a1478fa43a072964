import math
from fractions import Fraction

import pytest
import torch
from scipy import stats

from lit_robust import sampling
from lit_robust.errors import UserError
from lit_robust.sampling import Noise
from lit_robust.threat import ThreatModel

BALLS = [("linf", "8/255"), ("l2", "0.5"), ("l1", "3"), ("l0", "4")]
ALL = [*BALLS, ("box", "1")]


def images(n=8, *, shape=(3, 4, 4), seed=0, dtype=torch.float64):
    """Random images; a quarter of their entries is 0 and a quarter 1, where the box cuts the ball."""
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.rand(n, *shape, generator=generator, dtype=dtype) - 0.5).clamp(0, 1)


def streams(n=8, seed=0):
    return Noise(sampling.keys(torch.arange(n), seed=seed))


def test_every_spelling_of_eps_is_the_same_threat():
    spellings = ["8/255", 8 / 255, Fraction(8, 255), "16/510"]
    assert {ThreatModel(eps) for eps in spellings} == {ThreatModel("8/255")}
    assert ThreatModel("8/255").exact == Fraction(8, 255)
    assert ThreatModel("8/255").radius == 8 / 255


@pytest.mark.parametrize(
    ("threat", "text"),
    [
        (ThreatModel("8/255"), "L∞ 8/255"),
        (ThreatModel(0.25, "l2"), "L2 0.25"),
        (ThreatModel(12, "l1"), "L1 12"),
        (ThreatModel(4, "l0"), "L0 4"),
        (ThreatModel.box(), "box"),
        (ThreatModel(None, "l2"), "L2, any distance"),
        (ThreatModel(None), "L∞, any distance"),
    ],
)
def test_name_of_a_threat(threat, text):
    assert str(threat) == text


@pytest.mark.parametrize(
    ("eps", "norm", "message"),
    [
        (8, "linf", r"did you mean 8/255\?"),
        ("8", "linf", r"did you mean 8/255\?"),
        (-0.1, "l2", "expected eps to be 0 or more, got -0.1"),
        ("eps", "linf", "expected eps to be a number or a ratio"),
        (math.nan, "l2", "expected eps to be finite"),
        (1.5, "l0", "expected eps to be a whole number of entries in L0, got 1.5"),
        (1, "l3", "expected norm to be one of linf, l2, l1, l0, box, got 'l3'"),
    ],
)
def test_impossible_threats_are_refused(eps, norm, message):
    with pytest.raises(UserError, match=message):
        ThreatModel(eps, norm)


@pytest.mark.parametrize(("norm", "diameter"), [("l2", 4.0), ("l1", 16.0), ("l0", 16.0)])
def test_eps_above_the_diameter_of_the_box_is_refused(norm, diameter):
    ThreatModel(diameter, norm).check_shape((1, 4, 4))
    message = rf"at most {diameter:g}, .* of 1x4x4 images, got 17; .* did you mean 17/255\?"
    with pytest.raises(UserError, match=message):
        ThreatModel(17, norm).check_shape((1, 4, 4))


@pytest.mark.parametrize(
    ("norm", "expected"), [("linf", 0.5), ("box", 0.5), ("l2", math.sqrt(0.5)), ("l1", 1.0), ("l0", 2.0)]
)
def test_distance_is_the_norm_of_the_difference(norm, expected):
    x = torch.zeros(1, 1, 2, 2)
    x_adv = torch.tensor([0.5, 0.0, 0.5, 0.0]).view_as(x)
    distance = ThreatModel(1, norm).distance(x_adv, x)
    assert distance.dtype == torch.float64
    assert distance.tolist() == pytest.approx([expected])


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.25), ("l2", 0.25), ("l1", 0.25), ("l1", 4)])
def test_contains_ends_at_eps_plus_a_millionth(norm, eps):
    threat = ThreatModel(eps, norm)
    x = torch.full((2, 1, 4, 4), 0.25, dtype=torch.float64)
    unit = torch.zeros_like(x)
    if eps == 4:
        unit[:] = 1 / 16
    else:
        unit[:, 0, 0, 0] = 1
    beyond = torch.tensor([0.9e-6, 1.1e-6]).view(2, 1, 1, 1) * max(1, eps)
    assert threat.contains(x + unit * (eps + beyond), x).tolist() == [True, False]


@pytest.mark.parametrize(("norm", "eps"), ALL)
def test_contains_refuses_what_leaves_the_box_and_nan(norm, eps):
    threat = ThreatModel(eps, norm)
    x = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0]).view(5, 1, 1, 1).repeat(1, 3, 4, 4)
    x_adv = x.clone()
    x_adv[0, 0, 0, 0] = -1e-4
    x_adv[1, 0, 0, 0] = 1 + 1e-4
    x_adv[2, 0, 0, 0] = math.nan
    assert threat.contains(x_adv, x).tolist() == [False, False, False, True, True]


def test_contains_counts_entries_in_l0():
    x = images(2)
    x_adv = x.clone()
    x_adv.view(2, -1)[0, :4] = 0.123
    x_adv.view(2, -1)[1, :5] = 0.123
    assert ThreatModel(4, "l0").contains(x_adv, x).tolist() == [True, False]


def test_box_contains_any_image():
    assert ThreatModel.box().contains(1 - images(4), images(4)).all()


@pytest.mark.parametrize(("norm", "eps"), ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_random_points_are_allowed_differ_between_samples_and_draws_and_keep_the_dtype(norm, eps, dtype):
    threat, x = ThreatModel(eps, norm), images(1, dtype=dtype).expand(8, -1, -1, -1)
    point = threat.random_point(x, streams())
    assert point.dtype == dtype
    assert point.shape == x.shape
    assert threat.contains(point, x).all()
    others = [*point[1:], threat.random_point(x, streams(), step=1)[0], threat.random_point(x, streams(seed=1))[0]]
    assert not any(torch.equal(point[0], other) for other in others)
    assert torch.equal(threat.random_point(x, streams()), point)


@pytest.mark.parametrize(("norm", "eps"), [("linf", "0.2"), ("l2", "0.4"), ("l1", "0.4")])
def test_random_points_are_uniform_in_the_ball(norm, eps):
    # For a uniform point of a D-dimensional ball, (distance / eps)^D is uniform, and each sign is equally likely.
    x = torch.full((4000, 1, 1, 3), 0.5, dtype=torch.float64)
    threat = ThreatModel(eps, norm)
    point = threat.random_point(x, streams(4000))
    assert stats.kstest(((threat.distance(point, x) / threat.radius) ** 3).numpy(), "uniform").pvalue > 1e-3
    octants = ((point > x).flatten(1).long() * torch.tensor([1, 2, 4])).sum(1).bincount(minlength=8)
    assert stats.chisquare(octants.numpy()).pvalue > 1e-3


@pytest.mark.parametrize(("norm", "eps"), BALLS)
def test_a_zero_ball_holds_the_image_alone(norm, eps):
    del eps
    threat, x = ThreatModel(0, norm), images()
    assert torch.equal(threat.random_point(x, streams()), x)
    assert torch.equal(threat.project(images(seed=1), x), x)


@pytest.mark.parametrize(("norm", "order"), [("linf", math.inf), ("l2", 2), ("l1", 1)])
@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e20])
def test_ascent_is_a_unit_step_whatever_the_scale_of_the_gradient(norm, order, scale):
    x, grad = torch.full((8, 3, 4, 4), 0.5, dtype=torch.float64), images(seed=1) - 0.5
    step = ThreatModel(1, norm).ascent(scale * grad, x)
    assert torch.linalg.vector_norm(step.flatten(1), ord=order, dim=1).tolist() == pytest.approx([1.0] * 8)
    torch.testing.assert_close(step, ThreatModel(1, norm).ascent(grad, x))


@pytest.mark.parametrize(("norm", "order", "dual"), [("linf", math.inf, 1), ("l2", 2, 2), ("l1", 1, math.inf)])
def test_ascent_is_the_steepest_step_of_its_norm(norm, order, dual):
    del order
    # Hölder: the largest inner product over the unit ball is the dual norm of the gradient.
    x, grad = torch.full((8, 3, 4, 4), 0.5, dtype=torch.float64), images(seed=1) - 0.3
    slope = (ThreatModel(1, norm).ascent(grad, x, l1_share=1e-9) * grad).flatten(1).sum(1)
    torch.testing.assert_close(slope, torch.linalg.vector_norm(grad.flatten(1), ord=dual, dim=1))


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "box"])
def test_zero_gradient_gives_a_zero_step(norm):
    x = images()
    assert torch.equal(ThreatModel(1, norm).ascent(torch.zeros_like(x), x), torch.zeros_like(x))


def test_l1_step_is_spread_over_the_steepest_entries_that_the_box_lets_move():
    x = torch.tensor([[1.0, 0.0, 0.5, 0.5, 1.0, 0.5]], dtype=torch.float64)
    grad = torch.tensor([[9.0, -8.0, 3.0, -2.0, -4.0, 1.0]], dtype=torch.float64)
    step = ThreatModel(1, "l1").ascent(grad, x, l1_share=0.5)  # 9 and -8 point out of the box
    torch.testing.assert_close(step, torch.tensor([[0, 0, 1 / 3, -1 / 3, -1 / 3, 0]], dtype=torch.float64))


@pytest.mark.parametrize(("share", "count"), [(0.01, 1), (0.02, 2), (0.5, 50), (1.0, 100)])
def test_l1_share_sets_how_many_entries_move(share, count):
    grad = torch.linspace(1, 2, 100, dtype=torch.float64).view(1, 100)
    step = ThreatModel(1, "l1").ascent(grad, torch.full_like(grad, 0.5), l1_share=share)
    assert (step != 0).nonzero()[:, 1].tolist() == list(range(100 - count, 100))


def test_l0_has_no_ascent():
    x = images()
    with pytest.raises(UserError, match="L0 has no gradient step; use a minimum-norm attack"):
        ThreatModel(4, "l0").ascent(x, x)


@pytest.mark.parametrize(("norm", "eps"), ALL)
def test_an_empty_batch_stays_empty(norm, eps):
    threat, x = ThreatModel(eps, norm), images(0)
    assert threat.random_point(x, streams(0)).shape == x.shape
    assert threat.project(x, x).shape == x.shape
    assert threat.contains(x, x).shape == (0,)


# --- any distance ---

ANY = [ThreatModel(None, norm) for norm, _ in BALLS]
any_distance = pytest.mark.parametrize("threat", ANY, ids=str)


@any_distance
def test_any_distance_has_an_infinite_radius_and_no_exact_one(threat):
    assert threat.radius == math.inf
    with pytest.raises(UserError, match=f"expected a threat model with a radius, got '{threat}'; set eps"):
        _ = threat.exact
    threat.check_shape((1, 1, 1))


def test_any_distance_compares_by_norm_and_equals_no_ball_and_no_box():
    assert len({*ANY, *(ThreatModel(None, norm) for norm, _ in BALLS)}) == 4
    assert not set(ANY) & {ThreatModel.box(), ThreatModel(1), ThreatModel(1, "l2"), ThreatModel(1, "l1")}
    assert ThreatModel.box().radius == 1


def test_any_distance_is_not_a_kind_of_box():
    with pytest.raises(UserError, match=r"the box has no distance to leave out; write ThreatModel.box\(\)"):
        ThreatModel(None, "box")


@any_distance
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_distance_allows_the_whole_box_and_nothing_else(threat, dtype):
    x = images(dtype=dtype)
    far = 1 - x
    assert threat.contains(far, x).all()
    assert torch.equal(threat.project(far, x), far)
    outside = torch.cat([far[:1] - 1e-3, far[1:2] + 1e-3, torch.full_like(far[2:3], math.nan)])
    assert threat.contains(outside, x[:3]).tolist() == [False] * 3
    assert torch.equal(threat.project(outside[:2], x[:2]), outside[:2].clamp(0, 1))


@any_distance
def test_any_distance_is_measured_in_its_norm(threat):
    x, x_adv = images(), images(seed=1)
    ball = ThreatModel(1, threat.norm)
    assert torch.equal(threat.distance(x_adv, x), ball.distance(x_adv, x))
    if threat.norm != "l0":
        assert torch.equal(threat.ascent(x_adv - 0.5, x), ball.ascent(x_adv - 0.5, x))


@any_distance
def test_random_points_at_any_distance_are_uniform_in_the_box(threat):
    x = images(1).expand(200, -1, -1, -1)
    point = threat.random_point(x, streams(200))
    assert torch.equal(point, ThreatModel.box().random_point(x, streams(200)))
    assert stats.kstest(point.flatten().numpy(), "uniform").pvalue > 1e-3
