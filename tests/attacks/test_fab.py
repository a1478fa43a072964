"""FAB and targeted FAB against closed forms of linear models, against what the model saw, and sample by sample."""

import math

import pytest
import torch
import torch.nn.functional as F
from linear import Noisy, TwoClasses, broken, classified, cnn, falsified, keys
from torch import nn

from lit_robust import sampling
from lit_robust.attacks import EOT
from lit_robust.attacks.fab import FAB, TargetedFAB
from lit_robust.counting import CountingModel
from lit_robust.errors import UserError
from lit_robust.hyperplane import step_onto
from lit_robust.projections import DUAL, length
from lit_robust.sampling import Noise

NORMS = ["linf", "l2", "l1"]
EPS = {"linf": 0.05, "l2": 0.4, "l1": 1.2}  # of which some samples of the random networks are broken
KINDS = [FAB, TargetedFAB]
SHAPE = (3, 4, 4)
MODELS = {"deterministic": cnn(), "random": Noisy(cnn(), 0.02)}
each_norm = pytest.mark.parametrize("norm", NORMS)
each_kind = pytest.mark.parametrize("kind", KINDS)


def linear_model(classes, seed=0):
    """A linear classifier of `SHAPE` images and its weights, (classes, 48)."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, classes, dtype=torch.float64))
    with torch.no_grad():
        model[1].weight.copy_(0.3 * torch.randn(classes, 48, generator=generator, dtype=torch.float64))
        model[1].bias.copy_(-0.5 * model[1].weight.sum(1))  # equal logits in the middle of the box
    return model, model[1].weight.detach()


def images(n, spread, seed=2):
    """Images around the middle of the box, cut by it if they spread by more than 0.5."""
    generator = torch.Generator().manual_seed(seed)
    return (0.5 + spread * (2 * torch.rand(n, *SHAPE, generator=generator, dtype=torch.float64) - 1)).clamp(0, 1)


def nearest_boundary(model, weight, x, y, norm, *, box):
    """The exact distance from each image to the nearest boundary of a linear model, (N,)."""
    z, best = model(x).detach(), torch.full((len(x),), math.inf, dtype=x.dtype)
    for shift in range(1, z.shape[1]):
        other = (y + shift) % z.shape[1]
        w, gap = weight[other] - weight[y], (z.gather(1, y[:, None]) - z.gather(1, other[:, None])).squeeze(1)
        if box:
            step = step_onto(x.flatten(1)[None], w, gap[None], norm)[0]
            reached = (w * step).sum(1) >= gap - 1e-9
            distance = torch.where(reached, length(step, norm), math.inf)
        else:
            distance = gap / length(w, DUAL[norm])
        best = torch.minimum(best, distance)
    return best


def found(attack, model, x, y):
    return attack.distances(model, x, y, key=keys(len(x)))


# --- closed forms ---


@each_norm
@each_kind
@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_a_linear_model_is_left_at_the_exact_distance_where_the_box_is_far(kind, classes, norm):
    model, weight = linear_model(classes)
    x = images(12, 0.02)
    y = model(x).argmax(1)
    expected = nearest_boundary(model, weight, x, y, norm, box=False)
    assert (x - 0.5).abs().max() + expected.max() < 0.5
    ratio = found(kind(norm=norm, steps=10), model, x, y) / expected
    assert ratio.min() >= 1 - 1e-9
    assert ratio.max() <= 1 + 1e-9  # a secant finds the boundary of a linear model


@each_norm
@each_kind
def test_where_the_box_cuts_it_is_left_at_the_distance_of_the_exact_projection(kind, norm):
    model, weight = linear_model(5)
    x = images(12, 1.0)
    y = model(x).argmax(1)
    expected = nearest_boundary(model, weight, x, y, norm, box=True)
    free = nearest_boundary(model, weight, x, y, norm, box=False)
    assert (expected > 1.02 * free).sum() >= 4
    ratio = found(kind(norm=norm, steps=10), model, x, y) / expected
    assert ratio.min() >= 1 - 1e-9
    assert ratio.max() <= 1.02


@each_norm
@each_kind
def test_in_evaluation_a_linear_model_is_broken_exactly_within_the_distance(kind, norm):
    model, weight = linear_model(4)
    x = images(16, 0.6)
    y = model(x).argmax(1)
    expected = nearest_boundary(model, weight, x, y, norm, box=True)
    eps = expected.median().item() * 1.01
    attack = kind(norm=norm, eps=eps, steps=20)
    x_adv = falsified(attack, model, x, y)
    counts = broken(model, x_adv, y) & attack.counted.contains(x_adv, x)
    assert torch.equal(counts, expected < eps)
    assert 4 < counts.sum() < 12


@each_norm
@pytest.mark.parametrize("alpha_max", [0.1, 1.0])
def test_one_step_is_the_mixture_of_the_two_projections(norm, alpha_max):
    # From a point that is not the image, in the middle of the box, with everything by hand.
    w, x = torch.randn(48, generator=torch.Generator().manual_seed(3), dtype=torch.float64), images(1, 0.1)
    start = (x + 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)).flatten()
    model = TwoClasses(w, 0.5 - float(w @ x.flatten()))
    lead = float(model(start[None]).detach() @ torch.tensor([1.0, -1.0], dtype=torch.float64))
    direction = {"linf": w.sign(), "l2": w, "l1": torch.where(w.abs() == w.abs().max(), w.sign(), 0)}[norm]
    to_boundary = [-m / (w @ direction) * direction for m in (lead, 0.5)]
    sizes = [length(step[None], norm) for step in to_boundary]
    alpha = min(float(sizes[0] / (sizes[0] + sizes[1])), alpha_max)
    ends = [point + 1.2 * step for point, step in zip((start, x.flatten()), to_boundary, strict=True)]
    expected = ((1 - alpha) * ends[0] + alpha * ends[1]).clamp(0, 1)
    attack = TargetedFAB(norm=norm, alpha_max=alpha_max, eta=1.2)
    points = torch.stack([start.view_as(x), x])
    attack._advance(points, torch.tensor([lead], dtype=torch.float64), -w.view_as(x))
    torch.testing.assert_close(points[0].flatten(), expected, rtol=0, atol=1e-12)
    assert torch.equal(points[1], x)


# --- what it answers with ---


@each_norm
@each_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_answer_is_the_nearest_adversarial_that_the_model_has_seen(kind, norm, dtype):
    model = cnn(dtype=dtype)
    x, y = classified(model, 24, dtype=dtype)
    y[::5] = (y[::5] + 1) % 4
    best, at = torch.full((24,), math.inf, dtype=dtype), x.clone()
    key = keys(24)
    order = key.argsort()

    def note(_, inputs, logits):
        image = inputs[0].detach().clone()
        rows = order[torch.searchsorted(key[order], sampling.current().key)]
        assert image.min() >= 0
        assert image.max() <= 1
        distance = length((image - x[rows]).flatten(1), norm)
        nearer = (logits.argmax(1) != y[rows]) & (distance < best[rows])
        best[rows[nearer]], at[rows[nearer]] = distance[nearer], image[nearer]

    handle = model.register_forward_hook(note)
    answer = kind(norm=norm, steps=4)(model, x, y, key=key)
    handle.remove()
    assert torch.equal(answer, at)
    assert torch.equal(best[::5], torch.zeros(5, dtype=dtype))  # wrong already
    assert ((best > 0) & best.isfinite()).sum() > 15
    assert answer.dtype == dtype
    assert not answer.requires_grad


@each_norm
@each_kind
def test_the_final_search_and_more_steps_bring_it_nearer(kind, norm):
    model = cnn()
    x, y = classified(model, 24)
    few, many = (found(kind(norm=norm, steps=steps), model, x, y) for steps in (5, 40))
    assert many.isfinite().all()
    assert (many <= 1.01 * few).all()
    assert many.mean() < 0.999 * few.mean()
    without = falsified(kind(norm=norm, steps=40, eps=1e-9), model, x, y)
    without = length((without - x).flatten(1), norm)
    assert (many <= without).all()
    assert 0.98 * without.mean() < many.mean() < without.mean()


@each_norm
@each_kind
def test_samples_that_are_wrong_already_cost_one_pass(kind, norm):
    model = cnn()
    x, y = classified(model, 6)
    y[:3] = (y[:3] + 1) % 4
    counting, attack = CountingModel(model, keys(6)), kind(norm=norm, steps=3)
    answer = attack(counting, x, y, key=keys(6))
    assert torch.equal(answer[:3], x[:3])
    assert counting.forwards[:3].tolist() == [1] * 3
    assert counting.backwards[:3].tolist() == [0] * 3
    assert found(attack, model, x, y)[:3].tolist() == [0.0] * 3


@pytest.mark.parametrize(("classes", "targets", "runs"), [(2, 9, 1), (3, 9, 2), (4, 2, 2), (12, 9, 9)])
@pytest.mark.parametrize("restarts", [1, 2])
def test_passes_of_samples_that_hold_out(classes, targets, runs, restarts):
    model = cnn(classes=classes)
    x, y = classified(model, 5, classes=classes)
    options = {"norm": "l2", "eps": 1e-9, "steps": 3, "restarts": restarts}
    for attack, walks, gradients in (
        (FAB(**options), restarts, classes - 1),
        (TargetedFAB(**options, targets=targets), restarts * runs, 1),
    ):
        counting = CountingModel(model, keys(5))
        falsified(attack, counting, x, y)
        assert counting.forwards.tolist() == [1 + 6 * walks] * 5
        assert counting.backwards.tolist() == [3 * walks * gradients] * 5


def test_targets_are_the_likeliest_wrong_classes_in_order(monkeypatch):
    model = cnn(classes=6)
    x, y = classified(model, 8, classes=6)
    reached, boundary = [], TargetedFAB._boundary

    def spy(self, logits, x_adv, label, target):
        reached.append(target.tolist())
        return boundary(self, logits, x_adv, label, target)

    monkeypatch.setattr(TargetedFAB, "_boundary", spy)
    TargetedFAB(norm="l2", steps=1, targets=3)(model, x, y, key=keys(8))
    others = model(x).scatter(1, y[:, None], -torch.inf).argsort(1, descending=True)
    assert reached == others[:, :3].T.tolist()


@each_norm
@each_kind
def test_an_answer_may_be_farther_than_eps(kind, norm):
    model = cnn()
    x, y = classified(model, 8)
    x_adv = falsified(kind(norm=norm, steps=10, eps=1e-6), model, x, y)
    assert broken(model, x_adv, y).all()


@each_norm
@each_kind
@pytest.mark.parametrize("logits", [[1.0], [1.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, math.nan]], ids=str)
def test_a_model_that_cannot_be_broken_gives_the_clean_image(kind, norm, logits):
    class Constant(nn.Module):
        def forward(self, x):
            return torch.tensor(logits, dtype=x.dtype) + 0 * x.flatten(1).sum(1, keepdim=True)

    y = torch.full((3,), torch.tensor(logits).argmax().item())
    attack = kind(norm=norm, steps=4)
    assert torch.equal(attack(Constant(), images(3, 1.0), y), images(3, 1.0))
    assert attack.distances(Constant(), images(3, 1.0), y).tolist() == [math.inf] * 3


@each_norm
@each_kind
def test_gradients_that_vanish_or_are_undefined_leave_the_other_samples_alone(kind, norm):
    class Poison(torch.autograd.Function):
        """A gradient that is not a number for the first image, and none for the second."""

        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return torch.cat([torch.full_like(grad[:1], torch.nan), torch.zeros_like(grad[1:2]), grad[2:]])

    model = cnn()
    x, y = classified(model, 6)
    alone = kind(norm=norm, steps=8)(model, x, y, key=keys(6))
    answer = kind(norm=norm, steps=8)(nn.Sequential(_Function(Poison), model), x, y, key=keys(6))
    torch.testing.assert_close(answer[2:], alone[2:], rtol=0, atol=1e-9)
    assert torch.equal(answer[:2], x[:2])
    assert not torch.equal(alone[:2], x[:2])


class _Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function.apply(x)


@each_norm
@each_kind
@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_the_scale_of_the_logits_does_not_matter(kind, norm, scale):
    class Scaled(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x):
            return scale * self.model(x)

    model = cnn(dtype=torch.float32)
    x, y = classified(model, 6, dtype=torch.float32)
    attack = kind(norm=norm, steps=8)
    torch.testing.assert_close(attack.distances(Scaled(model), x, y), attack.distances(model, x, y), rtol=0.02, atol=0)


# --- samples on their own ---


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("way", ["call", "falsify", "falsify without leaving"])
@each_norm
@each_kind
def test_a_batch_of_one_gives_what_a_batch_of_eight_gives_in_any_order(kind, norm, way, model):
    attack, key = kind(norm=norm, steps=3, eps=EPS[norm], restarts=2), keys(8)

    def run(x, y, key):
        if way == "call":
            return attack(model, x, y, key=key)
        return falsified(attack, model, x, y, key, leave=way == "falsify")

    x, y = classified(model, 8)
    whole = run(x, y, key)
    order = torch.tensor([3, 6, 0, 7, 5, 1, 4, 2])
    shuffled = torch.empty_like(whole)
    shuffled[order] = run(x[order], y[order], key[order])
    torch.testing.assert_close(shuffled, whole, rtol=0, atol=1e-8)
    for i in range(4):
        torch.testing.assert_close(run(x[i : i + 1], y[i : i + 1], key[i : i + 1])[0], whole[i], rtol=0, atol=1e-8)
    assert run(x[:0], y[:0], key[:0]).shape == x[:0].shape


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@each_norm
@each_kind
def test_leaving_changes_no_verdict_and_spares_passes(kind, norm, model):
    x, y = classified(model, 24)
    y[3] = (y[3] + 1) % 4
    attack, verdicts, passes = kind(norm=norm, steps=8, eps=EPS[norm]), [], []
    for leave in (True, False):
        counting = CountingModel(model, keys(24))
        x_adv = falsified(attack, counting, x, y, leave=leave)
        distance = attack.threat_model.distance(x_adv, x)
        verdicts.append((distance <= attack.counted.radius) & (broken(model, x_adv, y) | (distance > 0)))
        passes.append(counting.forwards)
    assert torch.equal(*verdicts)
    assert 4 < verdicts[0].sum() < 24
    held = ~verdicts[0]
    assert torch.equal(passes[0][held], passes[1][held])
    assert (passes[0][~held] < passes[1][~held]).all()
    assert len(set(passes[0].tolist())) > 3  # at different steps
    assert len(set(passes[1].tolist())) == 1


def test_a_sample_moves_the_same_in_parts(monkeypatch):
    model = cnn()
    x, y = classified(model, 7)
    attack = TargetedFAB(norm="l2", steps=4)
    whole = attack(model, x, y, key=keys(7))
    monkeypatch.setattr("lit_robust.attacks.fab._PART", 3 * x[0].numel())
    torch.testing.assert_close(attack(model, x, y, key=keys(7)), whole, rtol=0, atol=1e-9)


def test_images_need_not_be_contiguous():
    model = cnn()
    x, y = classified(model, 6)
    attack = TargetedFAB(norm="l2", steps=4)
    expected = attack(model, x, y, key=keys(6))
    other = attack(model, x.to(memory_format=torch.channels_last), y, key=keys(6))
    torch.testing.assert_close(other, expected, rtol=0, atol=1e-9)


@each_kind
def test_evaluation_without_eps_and_class_probabilities_get_the_same_search(kind):
    model = cnn()
    x, y = classified(model, 8)
    attack = kind(norm="l2", steps=5)
    expected = attack(model, x, y, key=keys(8))
    for leave in (True, False):
        assert torch.equal(falsified(attack, model, x, y, leave=leave), expected)
    assert torch.equal(kind(norm="l2", steps=5, eps=0.1)(model, x, y, key=keys(8)), expected)
    assert torch.equal(attack(model, x, F.one_hot(y, 4).double(), key=keys(8)), expected)
    own = falsified(kind(norm="l2", steps=5, eps=0.1), model, x, F.one_hot(y, 4).double())
    assert torch.equal(own, falsified(kind(norm="l2", steps=5, eps=0.1), model, x, y))


# --- restarts and random models ---


@each_norm
@pytest.mark.parametrize("eps", [None, 0.02])
def test_random_starts_are_half_as_far_as_the_nearest_adversarial_or_half_of_eps(norm, eps):
    attack, x = FAB(norm=norm, eps=eps), images(3, 0.1)
    limit = eps or {"linf": 0.3, "l2": 1.0, "l1": 5.0}[norm]
    distance = torch.tensor([0.01, math.inf, 0.015], dtype=torch.float64)
    starts = [attack._start(x, distance, Noise(keys(3)).restarted(number)) for number in (1, 2)]
    for start in starts:
        torch.testing.assert_close(length((start - x).flatten(1), norm), distance.clamp(max=limit) / 2)
    assert not torch.equal(*starts)
    corner = attack._start(torch.ones_like(x), distance, Noise(keys(3)))
    assert corner.max() <= 1
    assert corner.min() < 1


class Plateau(nn.Module):
    """Around the middle of the box no logit changes, so that only a search from elsewhere gets anywhere."""

    def forward(self, x):
        change = F.relu((x - 0.5).abs() - 0.05).flatten(1).sum(1, keepdim=True)
        return torch.cat([0.5 - change, change - 0.5], 1)


@each_norm
@each_kind
def test_restarts_leave_a_plateau(kind, norm):
    x, y = torch.full((4, *SHAPE), 0.5, dtype=torch.float64), torch.zeros(4, dtype=torch.long)
    assert found(kind(norm=norm, steps=10), Plateau(), x, y).isinf().all()
    distances = found(kind(norm=norm, steps=10, restarts=2), Plateau(), x, y)
    assert distances.isfinite().all()
    assert len(set(distances.tolist())) == 4  # each from a start of its own


@each_norm
def test_restarts_never_lose_an_adversarial(norm):
    model = cnn()
    x, y = classified(model, 24)
    one, three = (found(FAB(norm=norm, steps=4, restarts=n), model, x, y) for n in (1, 3))
    assert (three <= one * (1 + 1e-3)).all()  # the final search may set out from another point


@each_kind
def test_keys_decide_what_a_random_model_draws_and_every_pass_draws_anew(kind):
    x, y = classified(MODELS["random"], 8)
    attack, state = kind(norm="l2", steps=4, restarts=2), torch.get_rng_state()
    first, again, other = (attack(MODELS["random"], x, y, key=keys(8, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
    drawn, passes = [], []

    class Draws(nn.Module):
        def forward(self, x):
            drawn.append(sampling.layer_uniform(x)[0, 0, 0, 0].item())
            passes.append(len(x))
            return (x.flatten(1)[:, :3] - torch.tensor([0.0, 0.2, 0.3], dtype=x.dtype)).contiguous()

    attack(Draws(), torch.full((1, *SHAPE), 0.5, dtype=torch.float64), torch.zeros(1, dtype=torch.long), key=keys(1))
    assert len(passes) == 1 + 16 * (1 if kind is FAB else 2) + 5
    assert len(set(drawn)) == len(passes)


def test_on_a_random_model_it_searches_the_mean_of_several_draws():
    model = MODELS["random"]
    x, y = classified(model, 16)
    eot = EOT(attack=TargetedFAB(norm="l2", steps=8), draws=8)
    x_adv = eot(model, x, y, key=keys(16))
    with torch.no_grad():
        wrong = [(model(images).argmax(1) != y).double() for images in (x_adv, x) for _ in range(20)]
    assert torch.stack(wrong[:20]).mean() > torch.stack(wrong[20:]).mean() + 0.2


# --- options ---


@each_kind
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "l0"}, "expected norm to be linf, l2 or l1, got 'l0'; FMN also takes l0"),
        ({"norm": "box"}, "the box has no distance to leave out"),
        ({"eps": 8}, r"did you mean 8/255\?"),
        ({"steps": 0}, "expected steps to be 1 or more, got 0"),
        ({"restarts": 0}, "expected restarts to be 1 or more, got 0"),
        ({"alpha_max": -0.1}, "expected alpha_max to be from 0 to 1, got -0.1"),
        ({"alpha_max": math.nan}, "expected alpha_max to be from 0 to 1, got nan"),
        ({"eta": 0.9}, "expected eta to be 1 or more, got 0.9"),
        ({"eta": math.inf}, "expected eta to be 1 or more, got inf"),
        ({"beta": 0.0}, "expected beta to be above 0 and at most 1, got 0.0"),
        ({"beta": 1.1}, "expected beta to be above 0 and at most 1, got 1.1"),
    ],
    ids=str,
)
def test_impossible_options_are_refused(kind, options, message):
    with pytest.raises(UserError, match=message):
        kind(**{"norm": "linf", **options})


def test_targeted_fab_needs_a_target():
    with pytest.raises(UserError, match="expected targets to be 1 or more, got 0"):
        TargetedFAB(norm="l2", targets=0)


def test_names_say_what_is_counted():
    assert str(FAB(norm="l2")) == "FAB-100 L2, any distance, alpha_max 0.1, eta 1.05, beta 0.9"
    expected = "TargetedFAB-20 L∞ 8/255, 5 restarts, alpha_max 0.1, eta 1.05, beta 0.9, 9 targets"
    assert str(TargetedFAB(norm="linf", eps="8/255", steps=20, restarts=5)) == expected
    assert TargetedFAB(norm="l1", steps=7).label == "TargetedFAB-7"
