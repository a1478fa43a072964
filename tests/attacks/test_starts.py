"""Where decision-based attacks start, against brute force."""

import pytest
import torch
from linear import cnn, keys
from torch import nn

from lit_robust import sampling
from lit_robust.attacks import starts
from lit_robust.attacks.boundary import Boundary
from lit_robust.attacks.queries import Queries
from lit_robust.attacks.starts import BlendedNoise, Given, NearestImage
from lit_robust.errors import UserError

SHAPE = (3, 6, 6)
N = 6


class Bright(nn.Module):
    """Class 1 where the mean is above a threshold; counts the images of each noise key."""

    def __init__(self, threshold):
        super().__init__()
        self.threshold, self.asked = threshold, {}

    def forward(self, x):
        for key in sampling.current().key.tolist():
            self.asked[key] = self.asked.get(key, 0) + 1
        lead = x.mean((1, 2, 3)) - self.threshold
        return torch.stack([-lead, lead], 1)


def images(n, seed=0, low=0.0, high=1.0):
    generator = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(n, *SHAPE, generator=generator, dtype=torch.float64)


def queries(model, y, *, key=None, chunk=4096):
    noise = sampling.Noise(keys(len(y)) if key is None else key)
    return Queries(attack=Boundary(), model=model, y=y, noise=noise, position=torch.arange(len(y)), chunk=chunk)


def zeros(n):
    return torch.zeros(n, dtype=torch.long)


# --- noise ---


def test_noise_is_the_first_adversarial_one_blended_as_little_as_will_do():
    model, x = Bright(0.5), images(N, low=0.0, high=0.4)
    ask = queries(model, zeros(N))
    start, found = BlendedNoise(directions=30, steps=20)(ask, x)
    assert found.all()
    draws = []
    for i in range(N):
        noises = [ask.noise.uniform("noise image", SHAPE, draw=j, dtype=x.dtype)[i] for j in range(30)]
        draw = next(j for j, image in enumerate(noises) if image.mean() > 0.5)
        blends = [(1 - k / 20) * x[i] + k / 20 * noises[draw] for k in range(21)]
        blend = next(k for k, image in enumerate(blends) if image.mean() > 0.5)
        torch.testing.assert_close(start[i], blends[blend], rtol=0, atol=1e-12)
        assert model.asked[int(ask.noise.key[i])] == draw + 1 + min(blend, 19)
        draws.append((draw, blend))
    assert len(set(draws)) > 3


def test_a_single_blend_is_the_noise_itself_as_the_model_saw_it():
    model = Bright(0.45)
    x = images(N, high=0.2)
    ask = queries(model, zeros(N))
    start, found = BlendedNoise(steps=1)(ask, x)
    assert found.all()
    assert torch.equal(start[0], ask.noise.uniform("noise image", SHAPE, dtype=x.dtype)[0])


def test_samples_without_adversarial_noise_keep_their_image_after_all_directions():
    model, x = Bright(0.7), images(N)
    ask = queries(model, zeros(N))
    start, found = BlendedNoise(directions=7)(ask, x)
    assert not found.any()
    assert torch.equal(start, x)
    assert set(model.asked.values()) == {7}


# --- images of a pool ---


@pytest.fixture(scope="module")
def case():
    """A network, images with its labels, a pool, and the pool's distances and predictions."""
    model, x, pool = cnn(), images(N, 1, 0.3, 0.7), images(60, 2, 0.2, 0.8)
    with torch.no_grad():
        y, predicted = model(x).argmax(1), model(pool).argmax(1)
    distance = (x[:, None] - pool).flatten(2).norm(dim=2)
    return model, x, y, pool, distance, predicted


@pytest.mark.parametrize("chunk", [4096, 5, 1])
def test_the_start_is_the_nearest_image_that_gets_another_prediction(case, chunk):
    model, x, y, pool, distance, predicted = case
    start, found = NearestImage().bound(pool)(queries(model, y, chunk=chunk), x)
    expected = torch.where(predicted[None] != y[:, None], distance, torch.inf).argmin(1)
    assert found.all()
    assert torch.equal(start, pool[expected])
    assert (expected != distance.argmin(1)).any()  # the prediction decides
    assert len(set(expected.tolist())) > 1  # and so does the distance


def test_only_the_nearest_candidates_count_and_queries_are_fewer_than_twice_their_rank(case):
    model, x, y, pool, distance, predicted = case
    order = distance.argsort(1)
    rank = (predicted[order] != y[:, None]).int().argmax(1)  # images nearer than the start
    assert len(set(rank.tolist())) > 2
    for candidates in (1, 2, 3, 4, 60, 1000):
        asked = []
        handle = model.register_forward_pre_hook(lambda _, inputs, log=asked: log.append(sampling.current().key))
        start, found = NearestImage(candidates=candidates).bound(pool)(queries(model, y), x)
        handle.remove()
        assert torch.equal(found, rank < candidates)
        assert torch.equal(start[~found], x[~found])
        counts = (torch.cat(asked)[:, None] == keys(N)).sum(0)
        assert (counts <= torch.where(rank < candidates, 2 * rank + 1, candidates).clamp(max=min(candidates, 60))).all()
        assert (counts >= (rank + 1).clamp(max=candidates)).all()


def test_the_image_itself_is_passed_over():
    class Always(nn.Module):
        """Says that every image is of class 1."""

        def forward(self, x):
            return torch.tensor([0.0, 1.0], dtype=x.dtype).expand(len(x), 2)

    x = images(2)
    pool = torch.cat([x, (x + 0.1).clamp(max=1), (x + 0.2).clamp(max=1)])
    start, found = NearestImage().bound(pool)(queries(Always(), zeros(2)), x)
    assert found.all()
    assert torch.equal(start, pool[2:4])
    start, found = NearestImage().bound(x[:1])(queries(Always(), zeros(1)), x[:1])
    assert not found.any()
    assert torch.equal(start, x[:1])


def test_equally_far_images_are_taken_in_the_order_of_the_pool():
    x = torch.full((1, *SHAPE), 0.5, dtype=torch.float64)
    pool = torch.stack([x[0] + 0.25 * (torch.arange(108).view(SHAPE) == i) for i in range(40)])
    for last in (1.0, 0.0):  # the nearest is last, or none is nearer than the others
        whole = torch.cat([pool, x + 0.001 * last]) if last else pool
        start, _ = NearestImage().bound(whole)(queries(Bright(0.0), zeros(1)), x)
        assert torch.equal(start[0], whole[-1] if last else pool[0])


@pytest.mark.parametrize("entries", [1, 300, 1 << 23])
def test_the_parts_that_distances_are_computed_in_do_not_matter(case, monkeypatch, entries):
    model, x, y, pool, *_ = case
    expected = NearestImage().bound(pool)(queries(model, y), x)
    monkeypatch.setattr(starts, "_ENTRIES", entries)
    for ours, theirs in zip(NearestImage().bound(pool)(queries(model, y), x), expected, strict=True):
        assert torch.equal(ours, theirs)


def test_a_pool_of_bytes_is_the_same_pool(case):
    model, x, y, pool, *_ = case
    levels = (255 * pool).round().to(torch.uint8)
    start, _ = NearestImage().bound(levels)(queries(model, y), x)
    expected, _ = NearestImage().bound(levels.double() / 255)(queries(model, y), x)
    assert torch.equal(start, expected)
    assert start.dtype == torch.float64
    assert start.max() <= 1


def test_a_pool_belongs_to_no_configuration(case):
    pool = case[3]
    start = NearestImage(candidates=5)
    assert start.bound(pool) == start
    assert start.pool is None
    assert start.bound(pool).pool is pool
    assert repr(start.bound(pool)) == "NearestImage(candidates=5)"
    assert BlendedNoise().bound(pool) == BlendedNoise()
    assert [kind().wants_images for kind in (NearestImage, BlendedNoise)] == [True, False]


# --- given images ---


def test_given_images_are_taken_where_they_are_adversarial():
    x = images(4, high=0.2)
    given = x + torch.tensor([0.6, 0.0, 0.6, 0.0], dtype=x.dtype).view(-1, 1, 1, 1)
    model = Bright(0.4)
    start, found = Given(images=given)(queries(model, zeros(4)), x)
    assert found.tolist() == [True, False, True, False]
    assert torch.equal(start, given)
    assert set(model.asked.values()) == {1}
    some = torch.tensor([2, 1])
    start, found = Given(images=given)(queries(model, zeros(4)).rows(some), x[some])
    assert found.tolist() == [True, False]
    assert torch.equal(start, given[some])


# --- all of them ---


@pytest.mark.parametrize("kind", ["noise", "pool", "given"])
def test_a_sample_starts_where_it_starts_alone(case, kind):
    model, x, y, pool, distance, predicted = case
    rank = (predicted[distance.argsort(1)] != y[:, None]).int().argmax(1)
    nearest = NearestImage(candidates=int(rank.median()) + 1).bound(pool)
    start = {"noise": BlendedNoise(directions=5), "pool": nearest}.get(kind)
    start = start or Given(images=pool[:N])
    whole, found = start(queries(model, y), x)
    assert found.any()
    assert kind == "noise" or not found.all()
    ask = queries(model, y)
    for i in (4, 0, 5):
        row = torch.tensor([i])
        alone, seen = start(ask.rows(row), x[row])
        assert torch.equal(alone[0], whole[i])
        assert seen[0] == found[i]
    nobody, none = start(ask.rows(torch.zeros(0, dtype=torch.long)), x[:0])
    assert nobody.shape == (0, *SHAPE)
    assert none.shape == (0,)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BlendedNoise(directions=0), "expected directions to be at least 1, got 0"),
        (lambda: BlendedNoise(steps=-1), "expected steps to be at least 1, got -1"),
        (lambda: NearestImage(candidates=0), "expected candidates to be at least 1, got 0"),
        (lambda: NearestImage().bound(torch.zeros(3, 4)), r"expected a pool of one or more images .* shape \(3, 4\)"),
        (lambda: NearestImage().bound(torch.zeros(0, *SHAPE)), "expected a pool of one or more images"),
        (
            lambda: NearestImage().bound(torch.zeros(2, *SHAPE).long()),
            "floating-point or uint8 images, got torch.int64",
        ),
        (lambda: NearestImage().bound(255 * images(2)), r"expected a pool of images in \[0, 1\], got"),
        (lambda: NearestImage().bound(images(2) * torch.nan), r"expected a pool of images in \[0, 1\], got nan"),
    ],
)
def test_impossible_starts_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (NearestImage(), r"give the attack a pool, `attack = attack.bound\(images\)`, .* or start from BlendedNoise"),
        (NearestImage().bound(torch.zeros(2, 3, 5, 5)), r"images of shape \(3, 6, 6\), got \(3, 5, 5\)"),
        (Given(images=torch.zeros(3, *SHAPE)), r"a starting image for each sample, of shape \(3, 6, 6\), got \(3, 3,"),
        (Given(images=torch.zeros(N, 1, 6, 6)), r"a starting image for each sample, of shape \(3, 6, 6\)"),
        (Given(images=torch.full((N, *SHAPE), 2.0)), r"expected starting images in \[0, 1\], got 2 to 2"),
    ],
)
def test_starts_that_do_not_fit_the_images_are_refused(start, message):
    with pytest.raises(UserError, match=message):
        start(queries(Bright(0.5), zeros(N)), images(N))
