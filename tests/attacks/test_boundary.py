"""The boundary attack against closed forms: the geometry of a step, the step sizes, and the distance to a plane."""

import math
from collections import deque

import pytest
import torch
from linear import TwoClasses, keys

from lit_robust.attacks import boundary
from lit_robust.attacks.boundary import Boundary
from lit_robust.attacks.starts import BlendedNoise, Given
from lit_robust.errors import UserError

SHAPE = (1, 2, 4)
D = 8


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plane(margins):
    """Images near the middle of the box whose margins of class 0 are those asked for, under one linear model."""
    w = 2 * uniform(*SHAPE, seed=1) - 1
    x = 0.5 + torch.tensor(margins, dtype=torch.float64).view(-1, 1, 1, 1) * w / w.square().sum()
    expected = torch.tensor(margins, dtype=torch.float64) / w.norm()
    return TwoClasses(w, -0.5 * float(w.sum())), x, torch.zeros(len(x), dtype=torch.long), expected


# --- geometry ---


def test_a_move_on_the_sphere_keeps_the_radius_and_has_its_share_of_it():
    x, x_adv = 0.5 + 0.02 * uniform(4, D), 0.5 + 0.1 * uniform(4, D, seed=1)
    share, eta = torch.tensor([0.01, 0.1, 0.5, 1.0], dtype=x.dtype), uniform(4, D, seed=2) - 0.5
    aside = boundary._on_the_sphere(x, x_adv, eta, share)
    radius = (x_adv - x).norm(dim=1)
    torch.testing.assert_close((aside - x).norm(dim=1), radius)
    angle = torch.cosine_similarity(aside - x, x_adv - x).acos()
    torch.testing.assert_close(angle.tan(), share)  # a tangent of that length, before it goes back onto the sphere
    # In the plane of the two directions.
    rest = eta - (eta * (x_adv - x)).sum(1, keepdim=True) / radius[:, None].square() * (x_adv - x)
    torch.testing.assert_close(torch.cosine_similarity(aside - x, rest), angle.sin())


def test_the_move_towards_the_image_ends_a_share_nearer():
    x, x_adv = 0.5 + 0.02 * uniform(4, D), 0.5 + 0.1 * uniform(4, D, seed=1)
    radius, share = (x_adv - x).norm(dim=1), torch.tensor([0.01, 0.1, 0.5, 1.0], dtype=x.dtype)
    near = boundary._towards(x, x_adv, radius, share)
    torch.testing.assert_close((near - x).norm(dim=1), (1 - share) * radius, rtol=0, atol=1e-12)
    # From where the box has cut it the end is the same, and where that is nearer already it stays.
    inner = x + 0.7 * (x_adv - x)
    near = boundary._towards(x, inner, radius, share)
    expected = torch.minimum(1 - share, torch.tensor(0.7, dtype=x.dtype)) * radius
    torch.testing.assert_close((near - x).norm(dim=1), expected, rtol=0, atol=1e-12)


def test_moves_stay_in_the_box():
    x, x_adv = uniform(50, D).round(), uniform(50, D, seed=1).round()
    x_adv[:, 0] = 1 - x[:, 0]
    ones = torch.ones(50, dtype=x.dtype)
    aside = boundary._on_the_sphere(x, x_adv, uniform(50, D, seed=2) - 0.5, ones)
    near = boundary._towards(x, aside, (x_adv - x).norm(dim=1), 0.1 * ones)
    for images in (aside, near):
        assert images.min() >= 0
        assert images.max() <= 1


# --- step sizes ---


def test_rates_are_of_the_last_steps_since_they_were_forgotten():
    rate, expected = boundary._Rate(5, 3, torch.device("cpu")), [deque(maxlen=5) for _ in range(3)]
    for step in range(60):
        rows = (uniform(3, seed=step) < 0.7).nonzero().flatten()
        success = uniform(len(rows), seed=100 + step) < 0.4
        share, known = rate.count(rows, success)
        for i, row in enumerate(rows.tolist()):
            expected[row].append(bool(success[i]))
            assert bool(known[i]) == (len(expected[row]) == 5)
            if known[i]:
                assert share[i].item() == pytest.approx(sum(expected[row]) / 5)
        forgotten = rows[uniform(len(rows), seed=200 + step) < 0.1]
        rate.forget(forgotten)
        for row in forgotten.tolist():
            expected[row].clear()


@pytest.mark.parametrize(
    ("sphere", "whole", "spherical", "source"),
    [
        (0.6, 0.2, 1.5, 1.5),  # easy on the sphere: both grow
        (0.1, 0.2, 1 / 1.5, 1 / 1.5),  # hard on the sphere: both shrink
        (0.3, 0.4, 1.0, 1.5**3),  # easy in whole, three times in a hundred steps
        (0.3, 0.0, 1.0, 1.5**-3),  # hard in whole
        (0.3, 0.2, 1.0, 1.0),
        (0.5, 0.2, 1.0, 1.0),  # exactly at the limits nothing changes
        (0.2, 0.1, 1.0, 1.0),
    ],
)
def test_step_sizes_follow_their_success_rates(sphere, whole, spherical, source):
    sizes = boundary._StepSizes(Boundary(), 2, uniform(1))
    rows = torch.tensor([1])
    for step in range(100):
        hits = [math.floor((step + 1) * r + 1e-9) > math.floor(step * r + 1e-9) for r in (sphere, whole)]
        sizes.adapt(rows, *(torch.tensor([hit]) for hit in hits))
        if step < 29:
            assert sizes.source[1] == 0.01
        if step < 99:
            assert sizes.spherical[1] == 0.01
    assert sizes.spherical[1].item() == pytest.approx(0.01 * spherical)
    assert sizes.source[1].item() == pytest.approx(0.01 * source)
    assert sizes.spherical[0] == sizes.source[0] == 0.01  # the other sample's


# --- the search ---


@pytest.mark.parametrize("kind", ["noise", "corner"])
def test_the_distance_to_a_plane_is_found_from_any_start(kind):
    model, x, y, expected = plane([0.1, 0.3, 0.5])
    corner = (model.weight.view(SHAPE) < 0).double().expand_as(x)
    start = BlendedNoise() if kind == "noise" else Given(images=corner)
    attack = Boundary(steps=700, spherical_step=0.2, source_step=0.05, start=start)
    ratio = attack.distances(model, x, y, key=keys(3)) / expected
    assert (ratio >= 1).all()
    assert (ratio <= 1.05).all()


def test_every_step_is_a_query_and_every_tenth_one_more():
    model, x, y, _ = plane([0.3, 0.5])
    sizes = []
    handle = model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    Boundary(steps=57, start=Given(images=(model.weight.view(SHAPE) < 0).double().expand_as(x)))(model, x, y)
    handle.remove()
    assert sum(sizes) == 2 * (57 + 5 + 3)  # and the image, its start and the answer


def test_a_sample_leaves_once_its_step_is_too_small():
    model, x, y, _ = plane([0.3, 0.5])
    corner = (model.weight.view(SHAPE) < 0).double().expand_as(x)
    sizes = []
    handle = model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    for source, convergence, steps in ((0.01, 0.02, 0), (0.01, 0.01, 20)):
        sizes.clear()
        Boundary(steps=20, source_step=source, convergence=convergence, start=Given(images=corner))(model, x, y)
        assert sum(sizes) == 2 * (steps + steps // 10 + 3)
    # Steps this wild fail; thirty counted failures shrink them below the limit, and the sample leaves.
    sizes.clear()
    options = {"spherical_step": 50.0, "source_step": 0.9, "convergence": 0.7}
    Boundary(steps=1000, **options, start=Given(images=corner))(model, x, y)
    handle.remove()
    assert sum(sizes) == 2 * (300 + 30 + 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "expected steps to be at least 1, got 0"),
        ({"spherical_step": 0}, "expected spherical_step to be above 0, got 0"),
        ({"source_step": -0.1}, "expected source_step to be above 0, got -0.1"),
        ({"source_step": math.inf}, "expected source_step to be above 0, got inf"),
        ({"step_adaptation": 1}, "expected step_adaptation to be above 1, got 1"),
        ({"convergence": -1}, "expected convergence to be 0 or more, got -1"),
    ],
    ids=str,
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Boundary(**options)


def test_defaults_are_those_of_foolbox():
    attack = Boundary()
    assert (attack.norm, attack.steps, attack.spherical_step, attack.source_step) == ("l2", 25_000, 0.01, 0.01)
    assert (attack.step_adaptation, attack.convergence) == (1.5, 1e-7)
    assert attack.start == BlendedNoise(directions=1000, steps=50)
    assert attack.label == "Boundary-25000"
