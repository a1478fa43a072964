"""Steps onto a hyperplane within the box against linear programs, bisection and the authors' code."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from lit_robust.hyperplane import step_onto
from lit_robust.projections import length

NORMS = ["linf", "l2", "l1"]
CHECKED = settings(deadline=None, derandomize=True, max_examples=40)
each_norm = pytest.mark.parametrize("norm", NORMS)
drawn = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10_000),
        "d": st.integers(1, 12),
        "share": st.sampled_from([0.0, 0.02, 0.3, 0.7, 0.98, 1.0]),
        "edges": st.booleans(),
        "sparse": st.booleans(),
        "tied": st.booleans(),
    }
)


def case(seed, d, share, edges, sparse, tied, n=3):
    """Two points of each sample, w, and a gap of either sign that is a share of what the box allows."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    x = rand(2, n, d)
    if edges:
        x = (3 * x - 1).clamp(0, 1)
    w = 2 * rand(n, d) - 1
    if tied:
        w = w.sign() * (2 * w.abs()).ceil()
    if sparse:
        w = w * (rand(n, d) < 0.6)
    sign = (rand(2, n) - 0.5).sign()
    return x, w, share * sign * longest(x, w, sign)


def longest(x, w, sign):
    """How large sign · w·δ may be in the box."""
    signed = w * sign[..., None]
    return (signed.clamp(min=0) * (1 - x) - signed.clamp(max=0) * x).sum(-1)


def smallest_norm(x, w, gap, norm):
    """The norm of the shortest step, by a linear program, or in L2 by bisection on the multiplier."""
    d, w, gap = len(x), w.numpy(), float(gap)
    boxes = [(-float(v), 1 - float(v)) for v in x]
    if norm == "linf":  # δ and a bound t on its entries
        rows = [[s * float(i == j) for j in range(d)] + [-1.0] for i in range(d) for s in (1, -1)]
        cost, equal, bounds = [0.0] * d + [1.0], [*w, 0.0], [*boxes, (0, None)]
        return linprog(cost, A_ub=rows, b_ub=[0.0] * len(rows), A_eq=[equal], b_eq=[gap], bounds=bounds).fun
    if norm == "l1":  # δ as the difference of two steps that are not negative
        bounds = [(0, high) for _, high in boxes] + [(0, -low) for low, _ in boxes]
        return linprog([1.0] * 2 * d, A_eq=[[*w, *-w]], b_eq=[gap], bounds=bounds).fun
    low, high, w = -1e9, 1e9, torch.from_numpy(w)
    for _ in range(200):
        m = (low + high) / 2
        step = torch.minimum(torch.maximum(m * w, -x), 1 - x)
        low, high = (m, high) if (w * step).sum() < gap else (low, m)
    return step.norm().item()


@each_norm
@given(drawn=drawn)
@CHECKED
def test_the_step_reaches_the_hyperplane_in_the_box_and_is_the_shortest(norm, drawn):
    x, w, gap = case(**drawn)
    step = step_onto(x, w, gap, norm)
    assert step.shape == x.shape
    torch.testing.assert_close((w * step).sum(-1), gap, rtol=0, atol=1e-9)
    assert (x + step).min() >= -1e-12
    assert (x + step).max() <= 1 + 1e-12
    assert (step[:, w == 0] == 0).all()
    if 0 < drawn["share"] < 1:  # the solvers' own tolerance is 1e-7
        norms = length(step.flatten(0, 1), norm).view(2, -1)
        for p in range(2):
            for i in range(len(w)):
                best = smallest_norm(x[p, i], w[i], gap[p, i], norm) if w[i].any() else 0.0
                assert norms[p, i].item() == pytest.approx(best, abs=1e-6)


@each_norm
@given(drawn=drawn, beyond=st.sampled_from([1.001, 3.0, 1e200, float("inf")]))
@CHECKED
def test_where_the_hyperplane_misses_the_box_the_step_leads_to_the_nearest_corner(norm, drawn, beyond):
    x, w, gap = case(**{**drawn, "share": 1.0})
    gap = torch.where(gap == 0, 0, gap * beyond + 1e-6 * gap.sign())
    step = step_onto(x, w, gap, norm)
    corner = (w * gap.sign()[..., None] > 0).double()
    expected = torch.where((w != 0) & (gap != 0)[..., None], corner - x, 0)
    torch.testing.assert_close(step, expected, rtol=0, atol=1e-12)


@each_norm
def test_without_a_gap_or_a_gradient_nothing_moves(norm):
    x, w, gap = case(0, 9, 0.5, True, False, False)
    assert (step_onto(x, w, 0 * gap, norm) == 0).all()
    assert (step_onto(x, 0 * w, gap, norm) == 0).all()
    assert step_onto(x[:, :0], w[:0], gap[:, :0], norm).shape == (2, 0, 9)


@each_norm
def test_every_point_of_every_sample_is_on_its_own(norm):
    x, w, gap = case(1, 40, 0.6, True, True, False, n=6)
    w[2], gap[1, 3] = 0.0, 1e9
    step = step_onto(x, w, gap, norm)
    for p in range(2):
        for i in range(6):
            alone = step_onto(x[p, i].view(1, 1, -1), w[i : i + 1], gap[p, i].view(1, 1), norm)
            torch.testing.assert_close(alone.flatten(), step[p, i], rtol=0, atol=1e-13)


@each_norm
@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1e10, 1e30])
def test_the_length_of_the_normal_does_not_matter(norm, scale):
    x, w, gap = (t.float() for t in case(2, 60, 0.4, True, False, False, n=6))
    step = step_onto(x, w, gap, norm)
    torch.testing.assert_close(step_onto(x, scale * w, scale * gap, norm), step, rtol=0, atol=1e-5)


@each_norm
@pytest.mark.parametrize("share", [0.001, 0.1, 0.9])
def test_full_size_images_in_float32(norm, share):
    x, w, gap = case(3, 3072, share, True, False, False, n=2)
    w = w * torch.rand(w.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64) ** 8
    gap = share * gap.sign() * longest(x, w, gap.sign())
    step = step_onto(x.float(), w.float(), gap.float(), norm)
    assert step.dtype == torch.float32
    torch.testing.assert_close((w * step.double()).sum(-1), gap, rtol=1e-5, atol=0)
    exact = step_onto(x, w, gap, norm)
    got, best = (length(s.double().flatten(0, 1), norm) for s in (step, exact))
    torch.testing.assert_close(got, best, rtol=1e-4, atol=0)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("share", "fewest", "most"), [(0.01, 1, 32), (0.2, 33, 255), (0.999, 257, 699)])
def test_in_l1_the_steepest_coordinates_are_used_up_first_however_many(tied, share, fewest, most):
    x, w, gap = case(5, 700, share, False, False, tied, n=4)
    gap[1] *= 0.02  # so that one point needs far fewer than the other
    step = step_onto(x, w, gap, "l1")
    order = w.abs().argsort(1, descending=True).expand(2, -1, -1)
    room = torch.where(w * gap.sign()[..., None] > 0, 1 - x, x)
    gain = (w.abs() * room).gather(2, order).cumsum(2)
    last = (gain < gap.abs()[..., None]).sum(2)  # the first coordinate with which it is reached
    assert tied or (fewest <= last[0].min() and last[0].max() <= most)
    steepness = w.abs().gather(1, order[0])
    for p in range(2):
        for i in range(4):
            threshold = steepness[i, last[p, i]]
            above, below = w[i].abs() > threshold, w[i].abs() < threshold
            torch.testing.assert_close(step[p, i, above].abs(), room[p, i, above])
            assert (step[p, i, below] == 0).all()
    torch.testing.assert_close((w * step).sum(-1), gap)


@each_norm
def test_steps_are_as_long_as_those_of_the_authors_code(norm):
    reference = pytest.importorskip("pyautoattack.fab_projections")
    x, w, gap = (t.float() for t in case(6, 200, 0.5, True, False, False, n=8))
    b = (w * x).sum(-1) + gap
    theirs = getattr(reference, f"projection_{norm}")(x.flatten(0, 1), torch.cat([w, w]), b.flatten())
    ours = step_onto(x, w, gap, norm)
    torch.testing.assert_close(length(ours.flatten(0, 1), norm), length(theirs, norm), rtol=2e-3, atol=1e-4)
