"""What decision-based attacks share: queries, samples on their own, who leaves, and how near their answers are."""

import math
from dataclasses import dataclass, replace
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from linear import Noisy, classified, cnn, falsified, keys
from torch import nn

from lit_robust import sampling
from lit_robust.attacks import EOT, FGSM, FMN, MinimumNormAttack, Transfer
from lit_robust.attacks.boundary import Boundary
from lit_robust.attacks.decision import DecisionAttack, bound_to, wants_images
from lit_robust.attacks.hop_skip_jump import HopSkipJump
from lit_robust.attacks.starts import BlendedNoise, Given, NearestImage
from lit_robust.errors import UserError
from lit_robust.threat import ThreatModel

SHAPE = (3, 4, 4)
HSJ = {"steps": 3, "initial_gradient_queries": 20}
ATTACKS = [HopSkipJump(norm="l2", **HSJ), HopSkipJump(norm="linf", **HSJ), Boundary(steps=40)]
each_attack = pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: f"{type(a).__name__} {a.norm}")


class Ball(nn.Module):
    """Class 0 within a distance of the middle of the box; rows are summed alone, so no batch rounds in another way.

    Remembers images, verdicts, noise keys and the sizes of passes, and refuses gradients.
    """

    def __init__(self, radius=0.9):
        super().__init__()
        self.radius, self.images, self.wrong, self.keys, self.sizes = radius, [], [], [], []

    def forward(self, x):
        assert not x.requires_grad
        assert not torch.is_grad_enabled()
        assert x.min() >= 0
        assert x.max() <= 1
        lead = (x - 0.5).flatten(1).square().sum(1).sqrt() - self.radius
        self.images.append(x.clone())
        self.wrong.append(lead > 0)
        self.keys.append(sampling.current().key)
        self.sizes.append(len(x))
        return torch.stack([-lead, lead], 1)

    @property
    def queries(self):
        return torch.cat(self.keys)


def inside(n, seed=0):
    """Images of class 0 of `Ball`."""
    generator = torch.Generator().manual_seed(seed)
    return 0.5 + 0.2 * (torch.rand(n, *SHAPE, generator=generator, dtype=torch.float64) - 0.5)


def zeros(n):
    return torch.zeros(n, dtype=torch.long)


def distances_of(attack, x_adv, x):
    return attack.threat_model.distance(x_adv, x)


@each_attack
def test_it_is_a_minimum_norm_attack_that_names_its_settings(attack):
    assert isinstance(attack, MinimumNormAttack)
    assert isinstance(attack, DecisionAttack)
    assert attack.threat_model == ThreatModel(None, attack.norm)
    assert str(replace(attack, eps="1/2")).startswith(f"{type(attack).__name__}-{attack.steps} ")
    for part in ("0.5", "from blended noise (1000 directions, 50 steps)"):
        assert part in str(replace(attack, eps="1/2"))
    assert replace(attack) == attack
    assert hash(replace(attack)) == hash(attack)


@each_attack
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_answer_is_an_image_that_the_model_was_seen_to_get_wrong(attack, dtype):
    model, x = Ball(), inside(5).to(dtype)
    answer = attack(model, x, zeros(5), key=keys(5))
    seen, wrong = torch.cat(model.images), torch.cat(model.wrong)
    for i in range(5):
        mine = (seen[wrong] == answer[i]).flatten(1).all(1) & (model.queries[wrong] == keys(5)[i])
        assert mine.any()
    assert answer.dtype == dtype
    assert not answer.requires_grad


@each_attack
def test_the_answer_is_nearer_than_the_start_and_hardly_farther_than_the_nearest_seen(attack):
    model, x = Ball(), inside(5)
    start = attack.start
    answer = attack(model, x, zeros(5), key=keys(5))
    seen, wrong = torch.cat(model.images), torch.cat(model.wrong)
    assert start == BlendedNoise()
    for i in range(5):
        mine = seen[wrong & (model.queries == keys(5)[i])]
        distance = distances_of(attack, mine, x[i].expand_as(mine))
        ours = distances_of(attack, answer[i : i + 1], x[i : i + 1])
        assert ours < 0.9 * distance[0]  # the first is adversarial noise
        # Gradient estimates look at images around the boundary, which are not kept.
        assert ours <= (1.05 if isinstance(attack, HopSkipJump) else 1 + 1.01e-4) * distance.min()


@each_attack
def test_the_answer_is_clear_of_the_boundary_where_it_still_counts(attack):
    model, x = Ball(), torch.full((1, *SHAPE), 0.5, dtype=torch.float64)
    x[0, 0, 0, 0] = 0.51
    attack = replace(attack, start=Given(images=torch.ones_like(x)))
    answer = attack(model, x, zeros(1), key=keys(1))
    distance = distances_of(attack, answer, x).item()
    nearest = distance / (1 + 1e-4)
    on_it = x + (answer - x) / (1 + 1e-4)
    assert (torch.cat(model.images) - on_it).flatten(1).abs().amax(1).min() < 1e-12
    for share, expected in ((0.5e-4, nearest), (1.5e-4, distance)):
        eps = Fraction(nearest * (1 + share))
        again = replace(attack, eps=eps)(Ball(), x, zeros(1), key=keys(1))
        assert distances_of(attack, again, x).item() == pytest.approx(expected, rel=1e-9)
    far = replace(attack, eps=Fraction(nearest / 2))(Ball(), x, zeros(1), key=keys(1))
    assert torch.equal(far, answer)


@each_attack
def test_wrong_samples_cost_one_query_and_unbreakable_ones_a_start(attack):
    model, x = Ball(), inside(3)
    y = torch.tensor([0, 1, 0])
    attack = replace(attack, start=BlendedNoise(directions=4))
    answer, distances = attack(model, x, y, key=keys(3)), attack.distances(Ball(), x, y, key=keys(3))
    assert torch.equal(answer[1], x[1])
    assert distances[1] == 0
    assert (distances[[0, 2]] > 0).all()
    counts = (model.queries[:, None] == keys(3)).sum(0)
    assert counts[1] == 1
    unbroken = Ball(radius=10.0)
    assert torch.equal(attack(unbroken, x, zeros(3), key=keys(3)), x)
    assert (unbroken.queries[:, None] == keys(3)).sum(0).tolist() == [1 + 4] * 3
    assert attack.distances(unbroken, x, zeros(3)).tolist() == [math.inf] * 3


@each_attack
@pytest.mark.parametrize("kind", ["noise", "pool", "given"])
def test_no_sample_makes_more_queries_than_it_says(attack, kind):
    x, far = inside(6), 0.5 + 2.4 * (inside(6, seed=1) - 0.4)
    start = {"noise": BlendedNoise(directions=3), "pool": NearestImage(candidates=5).bound(far)}
    attack = replace(attack, start=start.get(kind, Given(images=far)))
    model = Ball()
    attack(model, x, zeros(6), key=keys(6))
    most = (model.queries[:, None] == keys(6)).sum(0).max()
    forwards, backwards = attack.passes(2)
    assert backwards == 0
    assert most <= forwards
    if isinstance(attack, Boundary):
        assert forwards == 40 + 4 + {"noise": 3 + 49, "pool": 5, "given": 1}[kind] + 2
        assert most == forwards or kind != "given"
    else:
        assert forwards < 2.5 * most + 100


@each_attack
def test_starts_are_given_by_row_also_where_others_are_wrong_already(attack):
    x, y = inside(4), torch.tensor([1, 0, 0, 0])
    given = torch.ones_like(x)
    given[2] = x[2]  # no adversarial
    given[1, :, :2] = 0
    answer = replace(attack, start=Given(images=given))(Ball(), x, y, key=keys(4))
    assert torch.equal(answer[[0, 2]], x[[0, 2]])
    alone = replace(attack, start=Given(images=given[1:2]))(Ball(), x[1:2], y[1:2], key=keys(4)[1:2])
    assert torch.equal(answer[1], alone[0])
    assert not torch.equal(answer[3], x[3])


@each_attack
@pytest.mark.parametrize("eps", [None, 0.55], ids=["distances", "eps"])
def test_a_batch_of_one_gives_what_a_batch_of_four_gives_in_any_order_and_any_chunk(attack, eps):
    x, y, key = inside(4), zeros(4), keys(4)
    attack = replace(attack, eps=eps and (0.08 if attack.norm == "linf" else eps))
    run = falsified if eps else lambda a, *args: a(*args[:3], key=args[3])
    model = Ball()
    whole = run(attack, model, x, y, key)
    order = torch.tensor([3, 0, 2, 1])
    shuffled = torch.empty_like(whole)
    shuffled[order] = run(attack, Ball(), x[order], y[order], key[order])
    counts, single = [], []
    for i in range(4):
        alone = Ball()
        single.append(run(attack, alone, x[i : i + 1], y[i : i + 1], key[i : i + 1]))
        counts.append(len(alone.queries))
    assert torch.equal(torch.cat(single), whole)
    assert torch.equal(shuffled, whole)
    assert (model.queries[:, None] == key).sum(0).tolist() == counts
    for chunk in (1, 7):
        small = Ball()
        assert torch.equal(run(replace(attack, chunk=chunk), small, x, y, key), whole)
        assert max(small.sizes) <= chunk
        assert len(small.queries) == sum(counts)
    assert attack(Ball(), x[:0], y[:0]).shape == (0, *SHAPE)


@each_attack
def test_where_only_eps_counts_samples_leave_within_it(attack):
    x, y = inside(12), zeros(12)
    distances = attack.distances(Ball(), x, y, key=keys(12))
    eps = float(distances.median()) * 1.001
    attack = replace(attack, eps=eps)
    left, stayed = Ball(), Ball()
    leaving = falsified(attack, left, x, y)
    staying = falsified(attack, stayed, x, y, leave=False)
    assert torch.equal(staying, attack(Ball(), x, y, key=keys(12)))
    broken = distances_of(attack, leaving, x) <= eps
    assert torch.equal(broken, distances_of(attack, staying, x) <= eps)
    assert 0 < broken.sum() < 12
    counts = [(model.queries[:, None] == keys(12)).sum(0) for model in (left, stayed)]
    assert (counts[0][broken] <= counts[1][broken]).all()
    assert counts[0].sum() < counts[1].sum()
    assert torch.equal(counts[0][~broken], counts[1][~broken])
    assert torch.equal(leaving[~broken], staying[~broken])


@each_attack
def test_keys_decide_and_class_probabilities_are_labels(attack):
    x, y = inside(3), zeros(3)
    state = torch.get_rng_state()
    first, again, other = (attack(Ball(), x, y, key=keys(3, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(attack(Ball(), x, F.one_hot(y, 2).double(), key=keys(3)), first)


@each_attack
def test_no_two_passes_of_a_sample_meet_the_same_noise(attack):
    drawn = []

    class Draws(Ball):
        def forward(self, x):
            drawn.append(sampling.layer_uniform(x)[0, 0, 0, 0].item())
            return super().forward(x)

    attack(Draws(), inside(1), zeros(1), key=keys(1))
    assert len(set(drawn)) == len(drawn) > 40


@each_attack
def test_on_a_random_model_it_searches_the_mean_of_several_draws(attack):
    model = Noisy(cnn(dtype=torch.float32), 0.02)
    x, y = classified(model, 3, dtype=torch.float32)
    eot = EOT(attack=replace(attack, start=BlendedNoise(steps=5), steps=1), draws=4)
    x_adv = eot(model, x, y, key=keys(3))
    assert (x_adv != x).flatten(1).any(1).all()
    assert torch.equal(x_adv, eot(model, x, y, key=keys(3)))


def test_a_pool_reaches_the_start_also_through_eot():
    pool = torch.ones(2, *SHAPE, dtype=torch.float64)
    attack = Boundary(steps=2, start=NearestImage(candidates=3))
    for given in (attack, EOT(attack=attack, draws=2)):
        assert wants_images(given)
        bound = bound_to(given, pool)
        assert bound == given
        assert getattr(bound, "attack", bound).start.pool is pool
        assert (bound(Ball(), inside(2), zeros(2)) != inside(2)).flatten(1).any(1).all()
        with pytest.raises(UserError, match="NearestImage has no images to choose from"):
            given(Ball(), inside(2), zeros(2))
    transferred = bound_to(Transfer(attack=replace(attack, eps=2), surrogates=[Ball()]), pool)
    assert wants_images(transferred)
    assert transferred.attack.start.pool is pool
    for other in (Boundary(), EOT(attack=FMN(norm="l2"), draws=2), FGSM(threat=ThreatModel("8/255"))):
        assert not wants_images(other)
        assert bound_to(other, pool) == other
    with pytest.raises(UserError, match="expected a pool of one or more images"):
        bound_to(attack, pool[:0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HopSkipJump(norm="l1"), r"expected the norm of HopSkipJump to be l2 or linf, got l1 \(L1\)"),
        (lambda: Boundary(norm="linf"), r"expected the norm of Boundary to be l2, got linf \(L∞\)"),
        (lambda: Boundary(norm="box"), "the box has no distance"),
        (lambda: Boundary(eps=-1), "expected eps to be 0 or more"),
        (lambda: Boundary(chunk=0), "expected chunk to be at least 1, got 0"),
        (lambda: HopSkipJump(norm="l2", chunk=-5), "expected chunk to be at least 1, got -5"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_a_subclass_has_to_walk():
    @dataclass(frozen=True, kw_only=True)
    class Idle(DecisionAttack):
        norms = ("l2",)

    with pytest.raises(TypeError, match="walk"):
        Idle(norm="l2")
