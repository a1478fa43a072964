import pytest
import torch

from lit_robust.data.split import stratified


@pytest.mark.parametrize("count", [0, 1, 37, 100, 199, 200])
def test_takes_exactly_as_many_as_asked(count):
    y = torch.arange(200) % 7
    assert int(stratified(y, count).sum()) == count


def test_every_class_has_its_share_to_within_one():
    y = torch.cat([torch.full((n,), label) for label, n in enumerate((400, 100, 33, 5))])
    taken = y[stratified(y, 107)].bincount(minlength=4)
    assert ((taken - y.bincount() * 107 / len(y)).abs() <= 1).all()


def test_the_seed_chooses_within_the_classes():
    y = torch.arange(200) % 2
    assert torch.equal(stratified(y, 40, seed=1), stratified(y, 40, seed=1))
    assert not torch.equal(stratified(y, 40, seed=1), stratified(y, 40, seed=2))


def test_neither_order_nor_position_decides():
    chosen = torch.stack([stratified(torch.zeros(20, dtype=torch.int64), 5, seed=seed) for seed in range(2000)])
    assert ((chosen.sum(0) - 500).abs() < 5 * (2000 * 0.25 * 0.75) ** 0.5).all()


def test_stays_what_it_was_when_results_were_published():
    y = torch.arange(12) % 3
    assert stratified(y, 4).nonzero()[:, 0].tolist() == [0, 2, 7, 11]
