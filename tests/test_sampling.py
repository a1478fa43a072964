import zlib

import pytest
import torch
from scipy import stats

from lit_robust import sampling
from lit_robust.sampling import Noise

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
KEYS = [8400972143974238905, 8566811186491711777, 7787568880677798796]
UNIFORM = [
    [0.026863813400268555, 0.4719166159629822],
    [0.43534862995147705, 0.42417752742767334],
    [0.839419960975647, 0.9945423007011414],
]
NORMAL = [
    [0.5270876048324201, -0.7217277595267129],
    [-1.844382750175159, -0.37089183415420857],
    [0.24978378919027958, -1.6608424318187531],
]


def splitmix(value):
    """The finaliser of SplitMix64 in Python integers."""
    value &= MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def reference_key(index, seed, epoch):
    value = splitmix(index + GOLDEN)
    for part in (seed, epoch):
        value = splitmix(value + (part + 1) * GOLDEN)
    return value


def reference_uniform(key, purpose, restart, step, draw, n, digits):
    for part in (zlib.crc32(purpose.encode()), restart, step, draw):
        key = splitmix(key + (part + 1) * GOLDEN)
    return [(splitmix(key + (i + 1) * GOLDEN) >> (64 - digits)) / 2**digits for i in range(n)]


@pytest.mark.parametrize(
    ("index", "seed", "epoch"), [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (59_999, 42, 199), (7, -3, 0)]
)
def test_keys_equal_the_hash_in_python_integers(index, seed, epoch):
    key = sampling.keys(torch.tensor([index]), seed=seed, epoch=epoch)
    assert key.dtype == torch.int64
    assert key.item() & MASK == reference_key(index, seed, epoch)


@pytest.mark.parametrize(("dtype", "digits"), [(torch.float32, 24), (torch.float64, 53)])
def test_uniform_equals_the_hash_in_python_integers(dtype, digits):
    noise = Noise(sampling.keys(torch.tensor([3, 11]), seed=5), restart=2)
    drawn = noise.uniform("start", (2, 3), step=7, draw=1, dtype=dtype)
    for row, key in zip(drawn, noise.key.tolist(), strict=True):
        assert row.flatten().tolist() == reference_uniform(key & MASK, "start", 2, 7, 1, 6, digits)


def test_golden_draws_never_change():
    key = sampling.keys(torch.arange(3), seed=1, epoch=2)
    assert key.tolist() == KEYS
    noise = Noise(key, restart=1)
    assert noise.uniform("start", (2,), step=3).tolist() == UNIFORM
    normal = noise.normal("start", (2,), step=3, dtype=torch.float64)
    torch.testing.assert_close(normal, torch.tensor(NORMAL, dtype=torch.float64), rtol=1e-12, atol=0)


def test_keys_of_an_epoch_are_distinct_and_differ_between_epochs_and_seeds():
    index = torch.arange(60_000)
    epochs = torch.cat([sampling.keys(index, seed=s, epoch=e) for s in (0, 1) for e in (0, 1)])
    assert epochs.unique().numel() == 240_000


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniform_numbers_are_uniform(dtype):
    drawn = Noise(sampling.keys(torch.arange(200))).uniform("start", (500,), dtype=dtype)
    assert drawn.dtype == dtype
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert stats.kstest(drawn.flatten().double().numpy(), "uniform").pvalue > 1e-3
    # Across samples too: the first number of many streams.
    first = Noise(sampling.keys(torch.arange(50_000))).uniform("start", (1,), dtype=dtype)
    assert stats.kstest(first.flatten().double().numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normal_numbers_are_normal(dtype):
    drawn = Noise(sampling.keys(torch.arange(200))).normal("start", (500,), dtype=dtype)
    assert drawn.dtype == dtype
    assert drawn.isfinite().all()
    assert stats.kstest(drawn.flatten().double().numpy(), "norm").pvalue > 1e-3


def stream(index=0, seed=0, epoch=0, purpose="start", restart=0, step=0, draw=0):
    noise = Noise(sampling.keys(torch.tensor([index]), seed=seed, epoch=epoch)).restarted(restart)
    return noise.uniform(purpose, (20_000,), step=step, draw=draw, dtype=torch.float64)[0]


@pytest.mark.parametrize(
    "other",
    [
        {"index": 1},
        {"seed": 1},
        {"epoch": 1},
        {"purpose": "sign"},
        {"restart": 1},
        {"step": 1},
        {"step": -1},
        {"draw": 1},
        {"restart": 1, "step": 1},
    ],
    ids=str,
)
def test_streams_that_differ_in_one_part_are_uncorrelated(other):
    base, changed = stream(), stream(**other)
    for shift in (0, 1, -1):
        correlation = torch.corrcoef(torch.stack([base, changed.roll(shift)]))[0, 1]
        assert correlation.abs() < 5 / 20_000**0.5


def test_parts_do_not_stand_in_for_each_other():
    parts = ["index", "seed", "epoch", "restart", "step", "draw"]
    first = [stream(**{part: 1})[:4].tolist() for part in parts]
    assert len({tuple(numbers) for numbers in first}) == len(parts)


def test_neighbouring_numbers_of_a_stream_are_uncorrelated():
    numbers = stream()
    assert torch.corrcoef(torch.stack([numbers[:-1], numbers[1:]]))[0, 1].abs() < 5 / 20_000**0.5


@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_a_row_is_the_same_in_every_batch_and_order(kind):
    key = sampling.keys(torch.arange(8))
    whole = getattr(Noise(key), kind)("start", (3, 5))
    order = torch.tensor([5, 0, 7, 2, 1, 6, 4, 3])
    assert torch.equal(getattr(Noise(key[order]), kind)("start", (3, 5)), whole[order])
    for i in range(8):
        assert torch.equal(getattr(Noise(key).rows(torch.tensor([i])), kind)("start", (3, 5))[0], whole[i])
    keep = torch.arange(8) % 3 == 0
    assert torch.equal(getattr(Noise(key).rows(keep), kind)("start", (3, 5)), whole[keep])


def test_a_shorter_draw_is_the_beginning_of_a_longer_one():
    noise = Noise(sampling.keys(torch.arange(2)))
    assert torch.equal(noise.uniform("start", (4,)), noise.uniform("start", (9,))[:, :4])


def test_restart_0_draws_what_the_original_draws_and_nested_restarts_are_distinct():
    noise = Noise(sampling.keys(torch.arange(2)))
    assert torch.equal(noise.restarted(0).uniform("start", (4,)), noise.uniform("start", (4,)))
    nested = {noise.restarted(outer).restarted(inner).restart for outer in range(20) for inner in range(50)}
    assert len(nested) == 1000


def test_drawing_leaves_the_key_as_it_was():
    key = sampling.keys(torch.arange(4))
    before = key.clone()
    Noise(key).normal("start", (4,))
    assert torch.equal(key, before)


def test_fresh_keys_follow_the_global_generator():
    torch.manual_seed(0)
    first, second = sampling.fresh_keys(1000), sampling.fresh_keys(1000)
    torch.manual_seed(0)
    assert torch.equal(sampling.fresh_keys(1000), first)
    assert torch.cat([first, second]).unique().numel() == 2000


@pytest.mark.parametrize("layer", [sampling.layer_uniform, sampling.layer_normal])
def test_layers_are_keyed_inside_keyed_and_differ_from_each_other(layer):
    x, key = torch.zeros(4, 3, 2), sampling.keys(torch.arange(4))
    draws = []
    for _ in range(2):
        with sampling.keyed(key):
            draws.append((layer(x), layer(x)))
    (first, second), (first_again, second_again) = draws
    assert torch.equal(first, first_again)
    assert torch.equal(second, second_again)
    assert not torch.equal(first, second)
    with Noise(key).keyed(step=1):
        assert not torch.equal(layer(x), first)
    with Noise(key).keyed(draw=1):
        assert not torch.equal(layer(x), first)
    with sampling.keyed(key[2:3]):
        assert torch.equal(layer(x[2:3]), first[2:3])


@pytest.mark.parametrize("layer", [sampling.layer_uniform, sampling.layer_normal])
def test_layers_draw_from_torch_outside_keyed(layer):
    x = torch.zeros(2, 3)
    plain = torch.rand_like if layer is sampling.layer_uniform else torch.randn_like
    torch.manual_seed(0)
    drawn = layer(x)
    torch.manual_seed(0)
    assert torch.equal(drawn, plain(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_layer_uniform_stays_below_one_in_half_precision(dtype):
    x = torch.zeros(2, 5000, dtype=dtype)
    with sampling.keyed(sampling.keys(torch.arange(2))):
        drawn = sampling.layer_uniform(x)
    assert drawn.dtype == dtype
    assert drawn.max() < 1
    assert drawn.double().mean().item() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("layer", [sampling.layer_uniform, sampling.layer_normal])
def test_a_layer_refuses_a_batch_other_than_the_keyed_one(layer):
    message = r"a random layer got a batch of 3, but the forward pass was keyed for 2 samples"
    with sampling.keyed(torch.arange(2)), pytest.raises(ValueError, match=message):
        layer(torch.zeros(3, 1))


def test_keyed_ends_with_its_block_also_when_nested_or_left_by_an_exception():
    outer, inner = sampling.keys(torch.arange(2)), sampling.keys(torch.arange(3))

    def fail_inside():
        with sampling.keyed(inner):
            assert torch.equal(sampling.current().key, inner)
            raise RuntimeError("inside")

    assert sampling.current() is None
    with sampling.keyed(outer):
        with pytest.raises(RuntimeError, match="inside"):
            fail_inside()
        assert torch.equal(sampling.current().key, outer)
    assert sampling.current() is None
