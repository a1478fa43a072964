"""What a front end's code can become: against the extremes of a linear function, and images that attain them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_robust import ThreatModel
from lit_robust.errors import UserError
from lit_robust.nn.polarizing import PolarizingFrontEnd
from lit_robust.nn.reachable_codes import WIDENING, ReachableCodes, reachable_codes, response_ends, widening

DUAL = {"linf": 1, "l2": 2, "l1": float("inf")}


def front_end(channels=1, filters=3, kernel=3, levels=3, threshold=0.3, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = PolarizingFrontEnd(
            in_channels=channels, filters=filters, kernel_size=kernel, thresholds=[-threshold, threshold]
        )
    return made.eval()


def images(n=2, channels=1, side=6, seed=0, dtype=torch.float64):
    return torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def jacobian(front, shape):
    """Derivative of every z in every pixel, (K·H·W, C·H·W): z is linear."""
    flat = torch.autograd.functional.jacobian(lambda x: front.responses(x), torch.zeros(1, *shape, dtype=torch.float64))
    return flat.reshape(-1, shape[0] * shape[1] * shape[2])


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "box"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("eps", [0.05, 0.4, 1.0])
def test_ends_are_those_of_a_linear_function(norm, channels, eps):
    front, x = front_end(channels).double(), images(channels=channels)
    slope = jacobian(front, x.shape[1:])
    flat = x.flatten(1)
    box = ((flat - eps).clamp(min=0), (flat + eps).clamp(max=1))
    least, most = (torch.minimum(a, b).sum(2) if end else torch.maximum(a, b).sum(2)
                   for end in (1, 0) for a, b in [(slope * box[0][:, None], slope * box[1][:, None])])  # fmt: skip
    if norm in ("l2", "l1"):
        z = front.responses(x).flatten(1)
        reach = eps * torch.linalg.vector_norm(slope, ord=DUAL[norm], dim=1)
        least, most = torch.maximum(least, z - reach), torch.minimum(most, z + reach)
    lower, upper = response_ends(front, x, ThreatModel(eps, norm))
    torch.testing.assert_close(lower.flatten(1), least, atol=1e-9, rtol=0)
    torch.testing.assert_close(upper.flatten(1), most, atol=1e-9, rtol=0)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_inside_the_box_the_ends_are_attained_by_an_allowed_image(norm):
    front, x, eps = front_end().double(), 0.4 + 0.2 * images(1), 0.1
    slope, threat = jacobian(front, x.shape[1:]), ThreatModel(eps, norm)
    _, upper = response_ends(front, x, threat)
    for entry, line in enumerate(slope):
        if norm == "linf":
            step = line.sign()
        elif norm == "l2":
            step = line / line.norm()
        else:
            step = torch.zeros_like(line)
            step[line.abs().argmax()] = line[line.abs().argmax()].sign()
        best = x + eps * step.view_as(x)
        assert threat.contains(best, x).all()
        found = front.responses(best).flatten()[entry].item()
        assert found == pytest.approx(upper.flatten()[entry].item(), abs=1e-9)


def worst_images(front, x, eps):
    """For every entry the allowed images that make its z largest and least, (2, K·H·W, C, H, W), in float32."""
    slope = jacobian(front.double(), x.shape[1:]).float()
    front.float()
    moved = torch.stack([x + eps * slope.sign().view(-1, *x.shape[1:]), x - eps * slope.sign().view(-1, *x.shape[1:])])
    return moved.clamp(0, 1)


@pytest.mark.parametrize("eps", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_decided_entries_never_change_and_undecided_ones_do(eps, seed):
    front, x = front_end(seed=seed, threshold=0.1), images(1, seed=seed, dtype=torch.float32)
    threat = ThreatModel(eps)
    codes = reachable_codes(front, x.double(), threat)
    lower, upper = response_ends(front, x.double(), threat)
    with torch.no_grad():
        found = [torch.cat([front(part) for part in side.split(64)]) for side in worst_images(front, x, eps)]
        for code in (*found, front(x)):
            assert ((code >= codes.lower) & (code <= codes.upper)).all()
    n = codes.lower.numel()
    own = torch.stack([code.flatten(1).diagonal()[:n] for code in found])  # each entry under the images made for it
    clear = torch.ones(n, dtype=torch.bool)
    for threshold in front.quantizer.thresholds.double():
        clear &= ((lower - threshold).abs() > 2e-5).flatten() & ((upper - threshold).abs() > 2e-5).flatten()
    changes = own[0] != own[1]
    assert torch.equal(changes[clear], ~codes.decided.flatten()[clear])
    assert changes.any()
    assert eps == 0.5 or codes.decided.any()


@settings(max_examples=15, deadline=None)
@given(st.floats(0, 0.6), st.integers(0, 50), st.sampled_from(["linf", "l2", "l1"]))
def test_no_random_image_of_the_ball_leaves_the_reachable_codes(eps, seed, norm):
    from lit_robust.sampling import Noise

    front, x = front_end(seed=seed), images(2, seed=seed, dtype=torch.float32)
    threat = ThreatModel(eps, norm)
    codes = reachable_codes(front, x.double(), threat)
    noise = Noise(torch.arange(2))
    for step in range(5):
        code = front(threat.random_point(x, noise, step=step))
        assert ((code >= codes.lower) & (code <= codes.upper)).all()


@settings(max_examples=15, deadline=None)
@given(st.floats(0, 0.9), st.floats(0, 0.9), st.sampled_from(["linf", "l2", "l1"]))
def test_more_is_undecided_in_a_larger_ball(a, b, norm):
    small, large = (reachable_codes(front_end(), images(), ThreatModel(eps, norm)) for eps in sorted((a, b)))
    assert (large.lower <= small.lower).all()
    assert (large.upper >= small.upper).all()
    assert (large.undecided >= small.undecided).all()
    assert torch.equal(large.undecided, (~large.decided).flatten(1).sum(1))


def single_tap(weight=2.0, threshold=0.5):
    """A front end of one filter that copies the pixel."""
    front = front_end(filters=1, threshold=threshold)
    with torch.no_grad():
        front.conv.weight.zero_()
        front.conv.weight[0, 0, 1, 1] = weight
    return front


def test_a_pixel_at_the_threshold_can_be_above_below_and_at_it():
    front, x = single_tap(), torch.full((1, 1, 4, 4), 0.5)
    codes = reachable_codes(front, x.double(), ThreatModel(0))
    assert (codes.lower == 0).all()
    assert (codes.upper == 1).all()
    assert (front(x) == 0.5).all(), "at the threshold itself the level is a half"
    near = reachable_codes(front, x.double() + 5e-6, ThreatModel(0))
    assert (near.undecided == 16).all(), "within rounding of it"
    far = reachable_codes(front, x.double() + 2e-5, ThreatModel(0))
    assert (far.undecided == 0).all()


def test_half_a_level_is_undecided_too():
    codes = ReachableCodes(torch.tensor([[0.0, 1.0, -0.5]]), torch.tensor([[0.5, 1.0, 0.0]]))
    assert codes.undecided.tolist() == [2]
    assert codes.decided.tolist() == [[False, True, False]]


@pytest.mark.parametrize("eps", [0.5, 0.7, 1])
def test_a_radius_above_the_threshold_reaches_no_further_than_the_box(eps):
    x = torch.tensor([0.0, 0.3, 0.9, 1.0], dtype=torch.float64).view(1, 1, 2, 2)
    for weight, low, high in ((2.0, 0, 1), (-2.0, -1, 0)):
        codes = reachable_codes(single_tap(weight), x, ThreatModel(eps))
        assert (codes.lower == low).all()
        assert (codes.upper == high).all()


def test_padding_stays_zero():
    front = front_end(filters=1)
    with torch.no_grad():
        front.conv.weight.fill_(1.0)
    lower, upper = response_ends(front, torch.full((1, 1, 3, 3), 0.5, dtype=torch.float64), ThreatModel(0.1))
    assert upper[0, 0, 1, 1].item() == pytest.approx(0.6)
    assert upper[0, 0, 0, 0].item() == pytest.approx(0.6 * 4 / 9)
    assert lower[0, 0, 0, 1].item() == pytest.approx(0.4 * 6 / 9)
    _, l2 = response_ends(front, torch.full((1, 1, 3, 3), 0.5, dtype=torch.float64), ThreatModel(0.1, "l2"))
    assert l2[0, 0, 0, 0].item() == pytest.approx((0.5 * 4 + 0.1 * 2) / 9)


def test_the_code_has_the_gradient_of_z():
    front, x, threat = front_end(), images(dtype=torch.float32), ThreatModel(0.1)
    codes, ends = reachable_codes(front, x, threat), response_ends(front, x, threat)
    weights = torch.randn(codes.lower.shape, generator=torch.Generator().manual_seed(1))

    def gradient(of):
        return torch.autograd.grad((of * weights).sum(), front.conv.weight, retain_graph=True)[0]

    for level, z in ((codes.lower, ends[0]), (codes.upper, ends[1])):
        found, expected = gradient(level), gradient(z)
        torch.testing.assert_close(found, expected)
        assert found.abs().max() > 0


def test_the_widening_grows_with_the_taps_and_the_radius():
    assert widening(front_end(kernel=5), ThreatModel(0.3)) == WIDENING == 1e-5
    assert widening(front_end(channels=40, kernel=5), ThreatModel(0.3)) > 5e-5
    assert widening(front_end(), ThreatModel(20, "l1")) > 2e-5


@pytest.mark.parametrize(("threat", "message"), [(ThreatModel(3, "l0"), "got l0"), (ThreatModel(None), "set eps")])
def test_threats_without_a_bound_are_refused(threat, message):
    with pytest.raises(UserError, match=message):
        reachable_codes(front_end(), images(), threat)
