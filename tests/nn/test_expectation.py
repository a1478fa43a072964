"""The three reductions against closed forms, and the draws: reproducible, independent, of no batch."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lit_robust import sampling
from lit_robust.nn import AdditiveNoise, Expectation, Pipeline

torch.set_num_threads(1)


class Scripted(nn.Module):
    """A 'random' model whose draws are known: logits x · W[r] at draw r, for r = 0, 1, ..., again and again."""

    def __init__(self, draws=3, inputs=4, classes=5):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weights = 2 * torch.randn(draws, inputs, classes, generator=generator, dtype=torch.float64)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x @ self.weights[(self.calls - 1) % len(self.weights)]


def random_model():
    torch.manual_seed(0)
    return Pipeline([AdditiveNoise(0.3), nn.Flatten(), nn.Linear(6, 4)])


def images(n=3):
    return torch.rand(n, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("reduce", ["probs", "log_probs", "logits"])
def test_reductions_against_their_definition(reduce):
    model, x = Scripted(), images()
    out = Expectation(model, 3, reduce)(x)
    assert model.calls == 3
    for i in range(3):
        draws = [[float(z) for z in x[i] @ w] for w in model.weights]
        total = [sum(math.exp(z) for z in row) for row in draws]
        for c in range(5):
            expected = {
                "probs": math.log(sum(math.exp(row[c]) / t for row, t in zip(draws, total, strict=True)) / 3),
                "log_probs": sum(row[c] - math.log(t) for row, t in zip(draws, total, strict=True)) / 3,
                "logits": sum(row[c] for row in draws) / 3,
            }[reduce]
            assert out[i, c].item() == pytest.approx(expected, abs=1e-10)


def test_probs_is_the_deployed_ensemble_and_needs_no_normalisation():
    out = Expectation(Scripted(), 3, "probs")(images())
    torch.testing.assert_close(out.exp().sum(1), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(out.log_softmax(1), out)


def test_log_probs_likelihood_is_the_mean_loss_and_so_is_its_gradient():
    y = torch.tensor([0, 3, 4])
    x = images().requires_grad_()
    loss = F.nll_loss(Expectation(Scripted(), 3, "log_probs")(x), y, reduction="sum")
    (grad,) = torch.autograd.grad(loss, x)

    model = Scripted()
    losses, grads = [], []
    for _ in range(3):
        losses.append(F.cross_entropy(model(x), y, reduction="sum"))
        grads.append(torch.autograd.grad(losses[-1], x)[0])
    torch.testing.assert_close(loss, torch.stack(losses).mean())
    torch.testing.assert_close(grad, torch.stack(grads).mean(0))


def test_the_three_objectives_differ_and_cross_entropy_hides_one():
    x, y = images(), torch.tensor([0, 3, 4])
    probs, log_probs, logits = (Expectation(Scripted(), 3, r)(x) for r in ("probs", "log_probs", "logits"))
    likelihood = F.nll_loss(log_probs, y)
    # Jensen: the loss of the ensemble is below the mean loss, and so is the loss of the mean logits.
    assert F.cross_entropy(probs, y) < likelihood - 1e-3
    assert F.cross_entropy(logits, y) < likelihood - 1e-3
    assert abs(F.cross_entropy(probs, y) - F.cross_entropy(logits, y)) > 1e-3
    torch.testing.assert_close(F.cross_entropy(log_probs, y), F.cross_entropy(logits, y))


@pytest.mark.parametrize("reduce", ["probs", "log_probs"])
def test_extreme_logits_stay_finite(reduce):
    class Certain(nn.Module):
        def forward(self, x):
            return x * torch.tensor([1e4, -1e4])

    x = torch.ones(1, 1, requires_grad=True)
    out = Expectation(Certain(), 2, reduce)(x)
    torch.testing.assert_close(out, torch.tensor([[0.0, -2e4]]))
    assert torch.autograd.grad(out.sum(), x)[0].isfinite().all()


def test_keyed_draws_are_reproducible_and_of_no_batch():
    model = Expectation(random_model(), 4, "logits")
    x, key = torch.rand(5, 1, 2, 3), sampling.keys(torch.arange(5))

    def run(rows, step=0):
        with sampling.Noise(key[rows]).keyed(step=step):
            return model(x[rows])

    everyone = run(torch.arange(5))
    assert torch.equal(everyone, run(torch.arange(5)))
    for rows in (torch.tensor([3]), torch.tensor([4, 0, 2])):
        torch.testing.assert_close(run(rows), everyone[rows])
    assert not torch.allclose(everyone, run(torch.arange(5), step=1))


def test_draws_differ_and_the_first_is_a_single_forward():
    seen = []

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.noise = AdditiveNoise(1.0)

        def forward(self, x):
            # Two random layers a pass, so that a draw must not repeat the other layer's noise either.
            seen.extend([self.noise(x), self.noise(x)])
            return seen[-1].flatten(1)

    x, key = torch.zeros(2, 1, 3, 3), sampling.keys(torch.arange(2))
    with sampling.keyed(key):
        Expectation(Watched(), 3, "logits")(x)
    assert len(seen) == 6
    for i in range(6):
        for j in range(i):
            assert (seen[i] != seen[j]).all()
    several, seen = seen, []
    with sampling.keyed(key):
        Watched()(x)
    assert torch.equal(torch.stack(seen), torch.stack(several[:2]))


def test_noise_before_the_expectation_is_not_repeated_inside():
    front, inside = AdditiveNoise(1.0), AdditiveNoise(1.0)
    x, key = torch.zeros(2, 5), sampling.keys(torch.arange(2))
    with sampling.keyed(key):
        before = front(x)
        after = Expectation(inside, 1, "logits")(x)
    assert (before != after).all()


def test_the_mean_of_many_draws_is_the_expectation():
    # Logits are linear in the noise, so their expectation is what the noiseless model gives.
    model = random_model()
    x, key = torch.rand(2, 1, 2, 3), sampling.keys(torch.arange(2))
    with sampling.keyed(key), torch.no_grad():
        mean = Expectation(model, 400, "logits")(x)
    exact = model.stages[2](x.flatten(1))
    bound = 5 * 0.3 * model.stages[2].weight.norm(dim=1) / 400**0.5
    assert ((mean - exact).abs() < bound).all()


def test_refuses():
    with pytest.raises(ValueError, match="draws to be at least 1, got 0"):
        Expectation(nn.Identity(), 0)
    with pytest.raises(ValueError, match="expected reduce to be one of probs, log_probs, logits, got 'mean'"):
        Expectation(nn.Identity(), 2, "mean")
    assert "draws=2, reduce='log_probs'" in repr(Expectation(nn.Identity(), 2, "log_probs"))
