"""FMN against closed forms of a linear model, against its own iterates, and against foolbox."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from linear import Noisy, TwoClasses, classified, cnn, falsified, keys, optimum
from torch import nn

from lit_robust import sampling
from lit_robust.attacks import EOT, FMN
from lit_robust.attacks.fmn import _Walk
from lit_robust.data import Digits
from lit_robust.errors import UserError

NORMS = ["l0", "l1", "l2", "linf"]
ORDER = {"linf": math.inf, "l2": 2, "l1": 1, "l0": 0}
DUAL = {"linf": 1, "l2": 2, "l1": math.inf}
SHAPE = (3, 4, 4)
MODELS = {"deterministic": cnn(), "random": Noisy(cnn(), 0.02)}
each_norm = pytest.mark.parametrize("norm", NORMS)


def weights(seed=0):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear_case(x, margins):
    """A model whose margin of class 0 on each image is the one asked for, one image at a time."""
    w = weights()
    return [(TwoClasses(w, float(m - (w * image).sum())), image[None]) for image, m in zip(x, margins, strict=True)]


def middle(n):
    return torch.full((n, *SHAPE), 0.5, dtype=torch.float64)


def corners(n, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.rand(n, *SHAPE, generator=generator, dtype=torch.float64) - 0.5).clamp(0, 1)


def found(attack, model, x):
    return attack.distances(model, x, torch.zeros(len(x), dtype=torch.long), key=keys(len(x)))


def order_norm(delta, norm):
    return torch.linalg.vector_norm(delta.flatten(1), ord=ORDER[norm], dim=1)


# --- closed forms ---


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_a_linear_model_in_the_middle_of_the_box_is_left_at_margin_over_dual_norm(norm):
    # Far less than the 0.5 to the box in every entry.
    margins = [0.05, 0.2, 0.4]
    for (model, x), m in zip(linear_case(middle(3), margins), margins, strict=True):
        expected = m / torch.linalg.vector_norm(weights().flatten(), ord=DUAL[norm]).item()
        ratio = found(FMN(norm=norm), model, x).item() / expected
        assert 1 - 1e-9 <= ratio <= 1.01


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_where_the_box_cuts_the_ball_the_nearest_adversarial_is_that_of_the_exact_projections(norm):
    x, margins = corners(3), [1.0, 4.0, 8.0]
    for (model, image), m in zip(linear_case(x, margins), margins, strict=True):
        expected = nearest_radius(image, m, norm)
        ratio = found(FMN(norm=norm), model, image).item() / expected
        assert 1 - 1e-6 <= ratio <= 1.03


def nearest_radius(x, margin, norm):
    """The smallest radius at which the linear optimum over ball and box uses the margin up, by bisection."""
    low, high = 0.0, 60.0
    for _ in range(30):
        radius = (low + high) / 2
        delta = optimum(-weights(), x, SimpleNamespace(norm=norm, radius=radius))
        low, high = (low, radius) if -(delta * weights()).sum() >= margin else (radius, high)
    return high


def test_the_box_of_these_tests_cuts_the_ball():
    for norm in ("l1", "l2", "linf"):
        free = 8.0 / torch.linalg.vector_norm(weights().flatten(), ord=DUAL[norm]).item()
        assert nearest_radius(corners(3)[2:], 8.0, norm) > 1.1 * free


@pytest.mark.parametrize(("image", "slack"), [(middle, 0), (corners, 1)])
def test_in_l0_as_few_entries_change_as_sorting_finds(image, slack):
    # The box holds 0.5 w of an entry in the middle, and elsewhere what is left of it in the direction of w.
    margins = [0.3, 1.0, 2.5, 4.0]
    for (model, x), m in zip(linear_case(image(4), margins), margins, strict=True):
        room = torch.where(weights() > 0, x[0], 1 - x[0])
        gains = (weights().abs() * room).flatten().sort(descending=True).values.cumsum(0)
        fewest = int((gains < m).sum()) + 1
        assert fewest <= found(FMN(norm="l0"), model, x).item() <= fewest + slack


# --- what it answers with ---


@each_norm
@pytest.mark.parametrize("steps", [1, 2, 12])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_answer_is_the_nearest_adversarial_that_the_model_has_seen(norm, steps, dtype):
    model = cnn(dtype=dtype)
    x, y = classified(model, 24, dtype=dtype)
    y[::5] = (y[::5] + 1) % 4
    seen, verdicts = [], []

    def note(_, inputs, logits):
        seen.append(inputs[0].detach().clone())
        verdicts.append(logits.argmax(1) != y)

    handle = model.register_forward_hook(note)
    answer = FMN(norm=norm, steps=steps)(model, x, y, key=keys(24))
    handle.remove()
    assert len(seen) == steps
    assert torch.equal(seen[0], x)
    distances = torch.stack([order_norm(image - x, norm) for image in seen])
    best, at = torch.where(torch.stack(verdicts), distances, torch.inf).min(0)
    assert torch.equal(best[::5], torch.zeros(5, dtype=dtype))  # wrong already
    assert ((best > 0) & best.isfinite()).sum() > (15 if steps == 12 else -1)
    expected = torch.where(best.isfinite().view(-1, 1, 1, 1), torch.stack(seen)[at, torch.arange(24)], x)
    assert torch.equal(answer, expected)
    assert answer.min() >= 0
    assert answer.max() <= 1
    assert answer.dtype == dtype
    assert not answer.requires_grad


@each_norm
def test_what_it_found_is_adversarial_and_the_others_are_clean(norm):
    model = cnn()
    x, y = classified(model, 24)
    attack = FMN(norm=norm, steps=4)  # too few for some
    answer, distance = attack(model, x, y, key=keys(24)), attack.distances(model, x, y, key=keys(24))
    wrong = model(answer).argmax(1) != y
    assert torch.equal(distance.isfinite(), wrong)
    assert torch.equal(answer[~wrong], x[~wrong])
    torch.testing.assert_close(distance[wrong], order_norm(answer - x, norm)[wrong])
    assert (distance > 0).all()


@each_norm
def test_more_steps_find_more_and_nearer_adversarials(norm):
    model = cnn()
    x, y = classified(model, 24)
    few, many = (FMN(norm=norm, steps=steps).distances(model, x, y) for steps in (6, 60))
    assert many.isfinite().all()
    assert (many <= 1.05 * few).all()
    assert many.mean() < few.mean()


@each_norm
def test_samples_that_are_wrong_already_have_distance_0(norm):
    model = cnn()
    x, y = classified(model, 6)
    wrong = (y + 1) % 4
    assert torch.equal(FMN(norm=norm, steps=5)(model, x, wrong), x)
    assert FMN(norm=norm, steps=5).distances(model, x, wrong).tolist() == [0.0] * 6


@each_norm
@pytest.mark.parametrize("logits", [[1.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 0.0]], ids=str)
def test_a_model_that_cannot_be_broken_gives_the_clean_image(norm, logits):
    class Constant(nn.Module):
        def forward(self, x):
            return torch.tensor(logits, dtype=x.dtype) + 0 * x.flatten(1).sum(1, keepdim=True)

    x, y = corners(3), torch.zeros(3, dtype=torch.long)
    attack = FMN(norm=norm, steps=8)
    assert torch.equal(attack(Constant(), x, y), x)
    assert attack.distances(Constant(), x, y).tolist() == [math.inf] * 3


@each_norm
def test_gradients_that_vanish_or_are_undefined_leave_the_other_samples_alone(norm):
    class Poison(torch.autograd.Function):
        """A gradient that is not a number for the first image, and none for the second."""

        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return torch.cat([torch.full_like(grad[:1], torch.nan), torch.zeros_like(grad[1:2]), grad[2:]])

    class Poisoned(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model(Poison.apply(x))

    model = cnn()
    x, y = classified(model, 6)
    alone = FMN(norm=norm, steps=10)(model, x, y, key=keys(6))
    answer = FMN(norm=norm, steps=10)(Poisoned(model), x, y, key=keys(6))
    assert answer.isfinite().all()
    torch.testing.assert_close(answer[2:], alone[2:], rtol=0, atol=1e-9)
    assert torch.equal(answer[:2], x[:2])
    assert not torch.equal(alone[:2], x[:2])


@each_norm
@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_the_scale_of_the_logits_does_not_matter(norm, scale):
    class Scaled(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x):
            return scale * self.model(x)

    model = cnn(dtype=torch.float32)
    x, y = classified(model, 6, dtype=torch.float32)
    attack = FMN(norm=norm, steps=30)
    torch.testing.assert_close(attack.distances(Scaled(model), x, y), attack.distances(model, x, y), rtol=0.1, atol=0)


# --- samples on their own ---


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@each_norm
def test_a_batch_of_one_gives_what_a_batch_of_eight_gives_in_any_order(norm, model):
    attack, key = FMN(norm=norm, steps=25), keys(8)
    x, y = classified(model, 8)
    whole = attack(model, x, y, key=key)
    order = torch.tensor([3, 6, 0, 7, 5, 1, 4, 2])
    shuffled = torch.empty_like(whole)
    shuffled[order] = attack(model, x[order], y[order], key=key[order])
    single = torch.cat([attack(model, x[i : i + 1], y[i : i + 1], key=key[i : i + 1]) for i in range(8)])
    for other in (shuffled, single):
        # Twenty-five steps on a random network make more of a last bit than a few do.
        torch.testing.assert_close(other, whole, rtol=0, atol=1e-6)
    assert attack(model, x[:0], y[:0]).shape == x[:0].shape


@each_norm
def test_keys_decide_what_a_random_model_draws(norm):
    x, y = classified(MODELS["random"], 8)
    attack, state = FMN(norm=norm, steps=10), torch.get_rng_state()
    first, again, other = (attack(MODELS["random"], x, y, key=keys(8, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_every_step_draws_anew():
    drawn = []

    class Draws(nn.Module):
        def forward(self, x):
            drawn.append(sampling.layer_uniform(x)[0, 0, 0, 0].item())
            return torch.tensor([1.0, 0.0], dtype=x.dtype) + 0 * x.sum((1, 2, 3))[:, None]

    FMN(norm="l2", steps=6)(Draws(), corners(1), torch.zeros(1, dtype=torch.long), key=keys(1))
    assert len(set(drawn)) == 6


@each_norm
@pytest.mark.parametrize("leave", [True, False])
def test_falsify_breaks_within_eps_what_the_whole_search_breaks(norm, leave):
    model = cnn()
    x, y = classified(model, 24)
    y[::8] = (y[::8] + 1) % 4
    nearest = FMN(norm=norm, steps=20).distances(model, x, y, key=keys(24))
    eps = nearest.median().item()
    attack = FMN(norm=norm, steps=20, eps=eps)
    sizes = []
    handle = model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    answer = falsified(attack, model, x, y, leave=leave)
    handle.remove()
    found = order_norm(answer - x, norm)
    broken = (model(answer).argmax(1) != y) & (found <= attack.counted.radius)
    assert torch.equal(broken, nearest <= attack.counted.radius)
    assert 3 < broken.sum() < 24
    torch.testing.assert_close(answer[~broken], attack(model, x, y, key=keys(24))[~broken], rtol=0, atol=1e-9)
    assert (found >= nearest - 1e-9)[broken].all()
    if leave:
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[:2] == [24, 21]  # those that are wrong already leave at once
        assert (~broken).sum() <= sizes[-1] < 15
        assert (found > nearest + 1e-9)[broken].any()  # it does not wait for the nearest
    else:
        assert sizes == [24] * 20
        assert torch.equal(answer, attack(model, x, y, key=keys(24)))


@each_norm
def test_leaving_takes_the_streams_of_a_random_model_along(norm):
    model, key = MODELS["random"], keys(8)
    x, y = classified(model, 8)
    eps = FMN(norm=norm, steps=12).distances(model, x, y, key=key).median().item()
    attack = FMN(norm=norm, steps=12, eps=eps)
    whole = falsified(attack, model, x, y, key)
    single = torch.cat([falsified(attack, model, x[i : i + 1], y[i : i + 1], key[i : i + 1]) for i in range(8)])
    torch.testing.assert_close(single, whole, rtol=0, atol=1e-6)
    assert not torch.equal(whole, falsified(attack, model, x, y, key, leave=False))


def test_nobody_is_left_once_all_are_broken_within_eps():
    model = cnn()
    x, y = classified(model, 6)
    passes = []
    handle = model.register_forward_pre_hook(lambda _, inputs: passes.append(len(inputs[0])))
    falsified(FMN(norm="l2", steps=50, eps=5), model, x, y)
    handle.remove()
    assert len(passes) < 20


@each_norm
def test_evaluation_and_class_probabilities_get_the_same_search(norm):
    model = cnn()
    x, y = classified(model, 8)
    attack = FMN(norm=norm, steps=10)
    expected = attack(model, x, y, key=keys(8))
    for other in (
        FMN(norm=norm, steps=10, eps=1),
        FMN(norm=norm, steps=10, alpha_final=0.01),
        FMN(norm=norm, steps=10, gamma_final=0.001),
    ):
        assert torch.equal(other(model, x, y, key=keys(8)), expected)
    for leave in (True, False):
        assert torch.equal(falsified(attack, model, x, y, leave=leave), expected)
    assert torch.equal(attack(model, x, F.one_hot(y, 4).double(), key=keys(8)), expected)


def test_on_a_random_model_it_searches_the_mean_of_several_draws():
    model = MODELS["random"]
    x, y = classified(model, 16)
    attack = FMN(norm="l2", steps=20)
    eot = EOT(attack=attack, draws=8)
    x_adv = eot(model, x, y, key=keys(16))
    assert eot.threat_model == attack.threat_model
    with torch.no_grad():
        wrong = [(model(images).argmax(1) != y).double() for images in (x_adv, x) for _ in range(20)]
    assert torch.stack(wrong[:20]).mean() > torch.stack(wrong[20:]).mean() + 0.3


# --- another library ---


@pytest.fixture(scope="module")
def trained():
    """A small network that has learnt the digits, and a hundred test images."""
    data = Digits(size=12)
    train, test = (data.images(train=part) for part in (True, False))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(200, 32), nn.ReLU()]
        model = nn.Sequential(*layers, nn.Linear(32, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
        for _ in range(4):
            for x, y in zip(train.x.split(64), train.y.split(64), strict=True):
                optimizer.zero_grad()
                F.cross_entropy(model(x.float() / 255), y).backward()
                optimizer.step()
    return model.eval(), test.x[:100].float() / 255, test.y[:100]


@each_norm
def test_mean_norms_are_at_most_those_of_foolbox(norm, trained):
    foolbox = pytest.importorskip("foolbox")
    names = {"l0": "L0FMNAttack", "l1": "L1FMNAttack", "l2": "L2FMNAttack", "linf": "LInfFMNAttack"}
    model, x, y = trained
    theirs = getattr(foolbox.attacks, names[norm])(steps=40)
    images = theirs.run(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, foolbox.Misclassification(y))
    with torch.no_grad():
        right, broken = model(x).argmax(1) == y, model(images).argmax(1) != y
    ours = FMN(norm=norm, steps=40).distances(model, x, y)
    assert 80 < right.sum() < 100
    assert broken[right].sum() > 40
    assert ours.isfinite()[right].sum() >= max(broken[right].sum(), 0.97 * right.sum())
    both = right & broken & ours.isfinite()
    assert ours[both].mean() <= 1.02 * order_norm(images - x, norm)[both].mean()
    if norm != "l2":  # its projection in L2 scales by norm / norm, which is 1, and leaves everything as it is
        assert ours[both].mean() >= 0.9 * order_norm(images - x, norm)[both].mean()


# --- the radius ---


def resized(norm, radius, best, distance, gap, broken, *, gamma=0.1):
    """Radii after a step, for images of 64 entries whose farthest point is at 1, 8 or 64, on a slope of 2."""
    walk = _Walk.begin(torch.ones(len(radius), 1, 8, 8, dtype=torch.float64), norm)
    walk.radius, best, distance, gap = (torch.tensor(v, dtype=torch.float64) for v in (radius, best, distance, gap))
    x_adv = walk.x.clone()
    x_adv[:, 0, 0, 0] -= distance
    walk.resize(x_adv, torch.tensor(broken), gap, torch.full_like(gap, 2.0), best, gamma)
    return walk.radius.tolist()


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_the_radius_shrinks_from_adversarials_to_the_best_and_grows_from_others(norm):
    inf, nan = math.inf, math.nan
    cases = {  # radius, best, distance, gap, broken: what follows
        (0.5, 0.7, 0.5, 1.0, True): 0.45,
        (0.5, 0.4, 0.4, 1.0, True): 0.4,  # the box had cut it
        (0.5, 0.4, 0.4, 1.0, False): 0.55,
        (0.5, inf, 0.4, 0.6, False): 0.7,  # extrapolated
        (0.5, inf, 0.4, 0.2, False): 0.55,  # extrapolated short
        (0.0, inf, 0.0, 0.2, False): 0.1,
        (0.98, 0.9, 0.9, 1.0, False): 1.0 if norm == "linf" else 1.078,
        (0.5, inf, 0.4, 600.0, False): {"l1": 64.0, "l2": 8.0, "linf": 1.0}[norm],  # never beyond the box
        (0.5, inf, 0.4, nan, False): {"l1": 64.0, "l2": 8.0, "linf": 1.0}[norm],
    }
    columns = [list(column) for column in zip(*cases, strict=True)]
    assert resized(norm, *columns) == pytest.approx(list(cases.values()))


def test_in_l0_the_radius_changes_by_a_whole_number_of_entries_and_by_one_at_least():
    cases = {  # radius, best, distance, gap, broken: what follows
        (1, math.inf, 0, 1, False): 2,
        (20, 25, 15, 1, False): 22,
        (25, math.inf, 15, 1, False): 27,
        (62, math.inf, 60, 1, False): 64,
        (25, 30, 25, 1, True): 22,
        (25, 19, 25, 1, True): 19,
        (5, 5, 5, 1, True): 4,
        (1, 1, 1, 1, True): 1,
        (1, 0, 0, 1, True): 0,
    }
    columns = [list(column) for column in zip(*cases, strict=True)]
    assert resized("l0", *columns) == list(cases.values())
    assert resized("l0", [25, 25], [30, 30], [25, 25], [1, 1], [True, False], gamma=0) == [24, 26]


# --- options ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "expected steps to be at least 1, got 0"),
        ({"alpha": 0}, "expected alpha to be above 0, got 0"),
        ({"alpha": math.inf}, "expected alpha to be above 0, got inf"),
        ({"alpha_final": -1.0}, "expected alpha_final to be above 0, got -1.0"),
        ({"gamma": 1.0}, "expected gamma to be from 0 to below 1, got 1.0"),
        ({"gamma_final": -0.1}, "expected gamma_final to be from 0 to below 1, got -0.1"),
    ],
    ids=str,
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        FMN(norm="l2", **options)


def test_names_say_what_is_counted():
    assert str(FMN(norm="l2")) == "FMN-100 L2, any distance, alpha 1, gamma 0.05"
    assert str(FMN(norm="linf", eps="8/255", steps=20, alpha=0.5)) == "FMN-20 L∞ 8/255, alpha 0.5, gamma 0.05"
    assert FMN(norm="l0", steps=7).label == "FMN-7"


def test_steps_and_shares_fall_along_half_a_cosine():
    attack = FMN(norm="l2", steps=4)
    share = [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]
    assert [attack._alpha(i) for i in range(4)] == pytest.approx([0.01 + 0.99 * s for s in share])
    assert [attack._gamma(i) for i in range(4)] == pytest.approx([0.001 + 0.049 * s for s in share])
