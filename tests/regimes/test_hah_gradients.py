"""Hebbian learning is local: each gradient of one backward pass against the papers' loop and against `taps.local()`."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lit_robust import PGD, ThreatModel, sampling
from lit_robust.nn import HaHVGG16
from lit_robust.nn.hah_block import hah_blocks
from lit_robust.nn.layer_costs import ALPHAS, HebbianCost, WeightL1
from lit_robust.regimes import TRADES, AdversarialTraining, HaH, Natural
from lit_robust.taps import Taps

LAM, FRACTION = 1.0, 0.1


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(4, 3, 32, 32, generator=generator, dtype=torch.float64)
    return x, torch.tensor([0, 3, 7, 3]), sampling.keys(torch.arange(4))


@pytest.fixture
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return HaHVGG16(width=0.125).double()


def published_cost(y, k):
    """Eq. 5.4 by a sort, written from the formula."""
    ranked = y.sort(dim=1, descending=True).values
    return (ranked[:, :k].mean(1) - LAM * ranked[:, k:].mean(1)).mean()


def gradients(network, loss):
    """Gradient of every parameter, and no trace of it."""
    network.zero_grad()
    loss.backward()
    found = {name: p.grad.clone() for name, p in network.named_parameters()}
    network.zero_grad()
    return found


def total(regime, batch):
    with torch.random.fork_rng():
        terms = {}
        contexts = [cost.collecting(regime.network) for cost in regime.layer_costs]
        collected = [context.__enter__() for context in contexts]
        terms = regime.loss(*batch)
        for of_layers, context in zip(collected, contexts, strict=True):
            terms |= of_layers()
            context.__exit__(None, None, None)
    return sum(terms.values())


def papers_loop(network, x, y):
    """As published: from the last block to the first, zero its gradient and go backward; then the loss."""
    network.zero_grad()
    names = [f"{name}.conv" for name, _ in hah_blocks(network)]
    with Taps(network, names) as taps:
        network(x)
    for name, alpha in reversed(list(zip(names, ALPHAS, strict=False))):
        conv = network.get_submodule(name)
        conv.weight.grad = None
        active = F.relu(taps[name].output)
        k = -(-active.shape[1] // 10)
        (-alpha * published_cost(active, k)).backward(retain_graph=True)
    hebbian = {f"{name}.weight": network.get_submodule(name).weight.grad.clone() for name in names}
    entropy = gradients(network, F.cross_entropy(network(x), y))
    return {name: g + hebbian.get(name, 0) for name, g in entropy.items()}


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(
            found[name], expected[name], rtol=1e-9, atol=1e-13, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_one_backward_pass_gives_the_gradients_of_the_papers_loop(network, batch):
    assert_equal(gradients(network, total(HaH(network), batch)), papers_loop(network, *batch[:2]))


def test_one_backward_pass_gives_the_gradients_of_the_readable_reference(network, batch):
    x, y, _ = batch
    names = [f"{name}.conv" for name, _ in hah_blocks(network)]
    with Taps(network, names) as taps:
        loss = F.cross_entropy(network(x), y)
        for name, alpha in zip(names, ALPHAS, strict=False):
            active = F.relu(taps[name].local())
            loss = loss - alpha * published_cost(active, -(-active.shape[1] // 10))
    assert_equal(gradients(network, total(HaH(network), batch)), gradients(network, loss))


def test_a_blocks_cost_changes_that_blocks_filters_and_nothing_else(network, batch):
    more = [a * (2 if number == 3 else 1) for number, a in enumerate(ALPHAS, start=1)]
    once = gradients(network, total(HaH(network), batch))
    twice = gradients(network, total(HaH(network, alphas=more), batch))
    assert [name for name in once if not torch.equal(once[name], twice[name])] == ["block3.conv.weight"]


def test_with_propagation_it_changes_the_blocks_before_too(network, batch):
    more = [a * (2 if number == 3 else 1) for number, a in enumerate(ALPHAS, start=1)]
    once = gradients(network, total(HaH(network, propagate=True), batch))
    twice = gradients(network, total(HaH(network, alphas=more, propagate=True), batch))
    changed = [name for name in once if not torch.equal(once[name], twice[name])]
    assert changed == [f"block{number}.conv.weight" for number in (1, 2, 3)]


def test_the_costs_scale_with_the_loss(network, batch):
    once = gradients(network, total(HaH(network), batch))
    eight = gradients(network, 8 * total(HaH(network), batch))
    assert_equal({name: g / 8 for name, g in eight.items()}, once)


@pytest.mark.parametrize("regime", ["pgd", "trades"])
def test_costs_are_taken_once_a_step_whatever_the_regime_does(network, batch, regime):
    attack = PGD(threat=ThreatModel("8/255"), steps=2)
    kind = {"pgd": AdversarialTraining, "trades": TRADES}[regime]
    plain = kind(network, attack=attack, attack_mode="train")
    costly = kind(network, attack=attack, attack_mode="train", layer_costs=[HebbianCost()])
    x, y, key = batch
    x_seen = x if regime == "trades" else None
    if x_seen is None:
        with plain.attacking() as attacked:
            x_seen = attack(attacked, x, y, key=key)
    base = gradients(network, total(plain, batch))
    names = [f"{name}.conv" for name, _ in hah_blocks(network)]
    with Taps(network, names) as taps:
        network(x_seen)
    loss = sum(
        -a * published_cost(F.relu(taps[n].local()), -(-taps[n].output.shape[1] // 10))
        for n, a in zip(names, ALPHAS, strict=False)
    )
    network.zero_grad()
    loss.backward()
    hebbian = {f"{n}.weight": network.get_submodule(n).weight.grad.clone() for n in names}
    wanted = {n: g + hebbian.get(n, 0) for n, g in base.items()}
    assert_equal(gradients(network, total(costly, batch)), wanted)


def test_no_learner_stays_behind(network, batch):
    with pytest.raises(RuntimeError, match="on purpose"), HebbianCost().collecting(network):
        raise RuntimeError("on purpose")
    assert all(block.learner is None for _, block in hah_blocks(network))


def test_evaluation_and_frozen_blocks_collect_nothing(network, batch):
    with HebbianCost().collecting(network) as terms:
        with torch.no_grad():
            network(batch[0])
        network.requires_grad_(False)
        network(batch[0])
        assert terms() == {}


def test_half_precision_on_the_cpu_trains(network, batch):
    network.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = total(HaH(network), (batch[0].float(), *batch[1:]))
    found = gradients(network, loss)
    assert all(g.isfinite().all() and g.dtype == torch.float32 for g in found.values())


def test_the_cost_in_half_precision_is_near_the_exact_one(network, batch):
    network.float()
    x = batch[0].float()

    def of_the_first_block(precision):
        with HebbianCost().collecting(network) as terms, precision:
            network(x)
        cost = terms()["hah/block1"]
        network.zero_grad()
        cost.backward()
        return cost.item(), network.block1.conv.weight.grad.flatten().clone()

    exact, half = (of_the_first_block(torch.autocast("cpu", torch.bfloat16, enabled=e)) for e in (False, True))
    assert half[0] == pytest.approx(exact[0], rel=0.02)
    assert F.cosine_similarity(exact[1], half[1], dim=0) > 0.99


def test_the_penalty_on_filters():
    network = nn.Sequential(nn.Conv2d(1, 2, 2, bias=False), nn.Conv2d(2, 1, 1, bias=False))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[[[1.0, -2.0], [3.0, 0.0]]], [[[0.0, 0.0], [0.0, -4.0]]]]))
        network[1].weight.copy_(torch.tensor([[[[0.5]], [[-1.5]]]]))
    with WeightL1(scale=0.1).collecting(network) as terms:
        assert terms()["l1"].item() == pytest.approx(0.1 * ((6 + 4) / 2 + 2))


def test_natural_training_with_costs_is_hah(network, batch):
    one, other = HaH(network, l1=0.01), Natural(network, layer_costs=[HebbianCost(), WeightL1(scale=0.01)])
    assert_equal(gradients(network, total(one, batch)), gradients(network, total(other, batch)))
