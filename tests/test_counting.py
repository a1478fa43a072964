"""Forward and backward passes, counted for each sample."""

import pytest
import torch
from torch import nn

from lit_robust import sampling
from lit_robust.counting import CountingModel
from lit_robust.expectation import Expectation
from lit_robust.sampling import Noise

N = 6
NOISE = Noise(sampling.keys(torch.arange(N)))


@pytest.fixture
def counting():
    torch.manual_seed(0)
    return CountingModel(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), NOISE.key)


def images(rows=N):
    return torch.rand(rows, 1, 2, 2)


def run(model, rows, *, backward):
    x = images(len(rows)).requires_grad_(backward)
    with NOISE.rows(rows).keyed():
        out = model(x)
    if backward:
        torch.autograd.grad(out.sum(), x)


def test_counts_follow_the_samples_when_others_leave(counting):
    run(counting, torch.arange(N), backward=True)
    run(counting, torch.tensor([4, 1, 5]), backward=True)  # in another order
    run(counting, torch.tensor([1]), backward=False)
    assert counting.forwards.tolist() == [1, 3, 1, 1, 2, 2]
    assert counting.backwards.tolist() == [1, 2, 1, 1, 2, 2]


def test_a_backward_pass_counts_when_it_happens_and_each_time(counting):
    x = images().requires_grad_()
    with NOISE.keyed():
        out = counting(x)
    assert counting.backwards.sum() == 0
    torch.autograd.grad(out.sum(), x, retain_graph=True)
    torch.autograd.grad(out.sum(), x)
    assert counting.backwards.tolist() == [2] * N
    assert counting.forwards.tolist() == [1] * N


def test_no_graph_no_backward_pass(counting):
    with torch.no_grad():
        run(counting, torch.arange(N), backward=False)
        with NOISE.keyed():
            assert not counting(images().requires_grad_()).requires_grad
    assert counting.forwards.tolist() == [2] * N
    assert counting.backwards.sum() == 0


def test_every_draw_of_an_expectation_counts(counting):
    run(Expectation(counting, 5), torch.tensor([0, 2]), backward=True)
    assert counting.forwards.tolist() == counting.backwards.tolist() == [5, 0, 5, 0, 0, 0]


def test_outputs_and_gradients_are_the_model_s_to_the_bit(counting):
    x = images().requires_grad_()
    with NOISE.keyed():
        counted = counting(x)
    plain = counting.model(x)
    assert torch.equal(counted, plain)
    weight = torch.rand_like(plain)
    (one,), (other,) = (torch.autograd.grad((out * weight).sum(), x) for out in (counted, plain))
    assert torch.equal(one, other)
    assert one.abs().max() > 0


def test_the_image_of_the_caller_is_not_written_to(counting):
    x = images()
    before = x.clone()
    with NOISE.keyed():
        counting(x)
    assert torch.equal(x, before)
    assert x.grad_fn is None


def test_a_pass_that_belongs_to_nobody_raises(counting):
    with pytest.raises(RuntimeError, match=r"must run under `sampling.keyed\(key\)`"):
        counting(images())
