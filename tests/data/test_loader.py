import pytest
import torch

from lit_robust.data import BatchLoader, BlockLoader, Images
from lit_robust.errors import UserError


def images(n):
    x = torch.arange(n).view(n, 1, 1, 1).to(torch.uint8)
    return Images(x, torch.arange(n) % 3, ("a", "b", "c"))


def seen(loader):
    return [index for _, _, batch in loader for index in batch.tolist()]


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("n", [103, 104])
def test_training_covers_every_sample_once_but_for_the_padding(world_size, n):
    subset = torch.arange(0, 2 * n, 2)
    loaders = [BatchLoader(images(2 * n), subset, 8, rank=rank, world_size=world_size) for rank in range(world_size)]
    lengths = {len(list(loader)) for loader in loaders} | {len(loader) for loader in loaders}
    every = [index for loader in loaders for index in seen(loader)]
    assert len(lengths) == 1
    assert set(every) == set(subset.tolist())
    assert len(every) == n + -n % world_size


def test_more_ranks_than_samples_still_get_one_each():
    loaders = [BatchLoader(images(3), torch.tensor([0, 2]), 4, rank=rank, world_size=5) for rank in range(5)]
    assert [len(seen(loader)) for loader in loaders] == [1] * 5
    assert {seen(loader)[0] for loader in loaders} == {0, 2}


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_evaluation_deals_fixed_blocks_and_repeats_nothing(world_size):
    subset = torch.arange(5, 108)
    loaders = [BlockLoader(images(108), subset, 10, rank=rank, world_size=world_size) for rank in range(world_size)]
    every = [index for loader in loaders for index in seen(loader)]
    assert sorted(every) == subset.tolist()
    assert sum(len(loader) for loader in loaders) == 11
    for rank, loader in enumerate(loaders):
        for k, (_, _, index) in enumerate(loader):
            block = rank + k * world_size
            assert index.tolist() == subset[10 * block : 10 * block + 10].tolist()


def test_the_last_batch_and_the_last_block_are_short():
    assert [len(y) for _, y, _ in BatchLoader(images(10), torch.arange(10), 4)] == [4, 4, 2]
    assert [len(y) for _, y, _ in BlockLoader(images(10), torch.arange(10), 4)] == [4, 4, 2]


def test_no_samples_no_blocks():
    assert list(BlockLoader(images(10), torch.arange(0), 4)) == []


@pytest.mark.parametrize("loader", [BatchLoader, BlockLoader])
def test_a_batch_holds_the_samples_of_its_indices(loader):
    data = images(50)
    for x, y, index in loader(data, torch.arange(7, 50), 8):
        assert x.dtype == torch.uint8
        assert torch.equal(x, data.x[index])
        assert torch.equal(y, data.y[index])


def test_the_order_depends_on_seed_and_epoch_alone():
    def order(**options):
        epoch = options.pop("epoch")
        return seen(BatchLoader(images(64), torch.arange(64), 16, position=lambda: (epoch, 0), **options))

    assert order(seed=1, epoch=2) == order(seed=1, epoch=2)
    assert len({tuple(order(seed=seed, epoch=epoch)) for seed in (0, 1) for epoch in (0, 1, 2)}) == 6
    torch.manual_seed(5)
    assert order(seed=0, epoch=0) == seen(BatchLoader(images(64), torch.arange(64), 16))


def test_two_ranks_of_64_take_the_steps_of_one_rank_of_128():
    one = BatchLoader(images(250), torch.arange(250), 128)
    two = [BatchLoader(images(250), torch.arange(250), 64, rank=rank, world_size=2) for rank in range(2)]
    for (_, _, whole), (_, _, a), (_, _, b) in zip(one, *two, strict=True):
        assert sorted(whole.tolist()) == sorted(a.tolist() + b.tolist())


def test_every_sample_comes_first_about_equally_often():
    first = torch.tensor([int(BatchLoader(images(4), torch.arange(4), 4).order(epoch)[0]) for epoch in range(2000)])
    counts = first.bincount(minlength=4)
    assert ((counts - 500).abs() < 5 * (2000 * 0.25 * 0.75) ** 0.5).all()


def test_a_resumed_iteration_skips_what_is_done_once():
    position = [3, 2]
    whole = [index.tolist() for _, _, index in BatchLoader(images(20), torch.arange(20), 4, position=lambda: (3, 0))]
    loader = BatchLoader(images(20), torch.arange(20), 4, position=lambda: tuple(position))
    loader.load_state_dict(loader.state_dict())
    assert [index.tolist() for _, _, index in loader] == whole[2:]
    assert [index.tolist() for _, _, index in loader] == whole


def test_an_iterator_that_is_never_advanced_does_not_use_up_the_resume():
    loader = BatchLoader(images(20), torch.arange(20), 4, position=lambda: (0, 2))
    loader.load_state_dict(loader.state_dict())
    iter(loader)
    assert len(list(loader)) == 3


@pytest.mark.parametrize(
    ("name", "change"),
    [("seed", {"seed": 1}), ("batch_size", {"batch_size": 5}), ("world_size", {"world_size": 2})],
)
def test_resuming_within_an_epoch_of_other_batches_is_refused(name, change):
    options = {"batch_size": 4, "seed": 0, "world_size": 1}
    state = BatchLoader(images(20), torch.arange(20), **options).state_dict()
    loader = BatchLoader(images(20), torch.arange(20), **(options | change), position=lambda: (0, 2))
    loader.load_state_dict(state)
    with pytest.raises(UserError, match=rf"{name} {options[name]}, now {change[name]}"):
        next(iter(loader))


def test_resuming_at_the_start_of_an_epoch_may_change_the_batches():
    loader = BatchLoader(images(20), torch.arange(20), 5, position=lambda: (1, 0))
    loader.load_state_dict(BatchLoader(images(20), torch.arange(20), 4).state_dict())
    assert len(list(loader)) == 4
