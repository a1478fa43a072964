"""A sample's verdict depends neither on its block, nor on its place in it, nor on who else has left."""

import pytest
import torch
from evaluated import evaluated, images, network

from lit_robust.attacks import BIM, EOT, FGSM, PGD, GaussianNoise, Restarts, WorstOf
from lit_robust.nn import AdditiveNoise
from lit_robust.threat import ThreatModel

LINF = ThreatModel("4/255")
ATTACKS = {
    "fgsm": FGSM(threat=LINF),
    "pgd": PGD(threat=LINF, steps=5, step_size="eps/2"),
    "restarts": Restarts(attack=PGD(threat=LINF, steps=2), n=3),
    "worst": WorstOf(attacks=[FGSM(threat=LINF), BIM(threat=LINF, steps=3)]),
    "l2": PGD(threat=ThreatModel("0.1", "l2"), steps=4),
    "eot": EOT(attack=PGD(threat=LINF, steps=3), draws=2),
    "noise": GaussianNoise(sigma="8/255"),
}
N = 64
DRAWS = 4  # that judge a random network
EXACT = (
    "broken",
    "right",
    "right_before",
    "survives",
    "forwards",
)  # the backward pass of the step that a sample leaves in depends on who goes on


def is_random(model):
    return any(isinstance(layer, AdditiveNoise) for layer in model.modules())


def shuffled(n):
    return torch.randperm(n, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module", params=["plain", "norm", "random"])
def reference(request):
    model = network(request.param)
    x, y = images(model, N, wrong_every=9)
    return model, x, y, evaluated(model, x, y, ATTACKS, draws=DRAWS, size=64)


def same(one, other, exact=EXACT):
    for name, columns in one.items():
        for column in exact:
            assert torch.equal(columns[column], other[name][column]), (name, column)
        for column in ("margin", "distance"):
            torch.testing.assert_close(columns[column], other[name][column], rtol=0, atol=1e-8)


@pytest.mark.parametrize(("size", "order"), [(1, "shuffled"), (7, "in order"), (7, "shuffled"), (64, "shuffled")])
def test_blocks_of_any_size_in_any_order_give_the_same_verdicts(reference, size, order):
    model, x, y, whole = reference
    same(
        whole,
        evaluated(model, x, y, ATTACKS, draws=DRAWS, size=size, order=None if order == "in order" else shuffled(N)),
    )


def test_leaving_changes_no_verdict(reference):
    model, x, y, whole = reference
    staying = evaluated(model, x, y, ATTACKS, draws=DRAWS, size=64, leave=False)
    same(whole, staying, exact=("broken", "right"))
    for name in ATTACKS:
        torch.testing.assert_close(whole[name]["x_adv"], staying[name]["x_adv"], rtol=0, atol=1e-8)
        assert (staying[name]["forwards"] >= whole[name]["forwards"]).all()
    if is_random(model):  # one wrong draw is no reason to leave
        assert torch.equal(staying["pgd"]["forwards"], whole["pgd"]["forwards"])
    else:
        assert staying["pgd"]["forwards"].sum() > 1.1 * whole["pgd"]["forwards"].sum()


def test_these_samples_break_at_different_times(reference):
    # Otherwise the tests above would not see a sample leave.
    model, _, _, whole = reference
    right = ~whole["clean"]["broken"]
    assert 0 < whole["clean"]["broken"].sum() < N // 4
    assert is_random(model) or len(whole["pgd"]["forwards"][right].unique()) >= 3
    for name in ATTACKS:
        assert whole[name]["broken"].sum() < N
    assert whole["pgd"]["broken"].sum() > whole["clean"]["broken"].sum()


def test_blocks_in_any_order_give_the_same_integers_and_bits(reference):
    # What a number of processes changes is who takes which block.
    model, x, y, _ = reference
    rows = torch.arange(N)
    dealt = torch.cat([*rows.split(16)[1::2], *rows.split(16)[::2]])
    one, other = (evaluated(model, x, y, ATTACKS, draws=DRAWS, size=16, order=order) for order in (rows, dealt))
    for name, columns in one.items():
        for column, values in columns.items():
            assert torch.equal(values, other[name][column]), (name, column)


def test_an_evaluation_can_be_repeated_and_its_seed_decides_the_noise():
    model = network("random")
    x, y = images(model, N)
    whole = evaluated(model, x, y, ATTACKS, draws=DRAWS, size=64)
    torch.manual_seed(123)  # torch's generator plays no part
    again = evaluated(model, x, y, ATTACKS, draws=DRAWS, size=64)
    other = evaluated(model, x, y, ATTACKS, draws=DRAWS, size=64, seed=1)
    for name in ("clean", *ATTACKS):
        assert torch.equal(whole[name]["margin"], again[name]["margin"])
        assert not torch.equal(whole[name]["margin"], other[name]["margin"])


@pytest.mark.parametrize("kind", ["plain", "norm"])
def test_in_single_precision_only_near_ties_may_differ(kind):
    model = network(kind, dtype=torch.float32)
    n = 1000
    x, y = images(model, n)
    attacks = {"pgd": PGD(threat=LINF, steps=5, step_size="eps/2"), "fgsm": FGSM(threat=LINF)}
    whole = evaluated(model, x, y, attacks, size=250)
    assert x.dtype == torch.float32
    for size, order in ((250, shuffled(n)), (7, None), (64, shuffled(n))):
        other = evaluated(model, x, y, attacks, size=size, order=order)
        for name in ("clean", *attacks):
            differ = whole[name]["broken"] != other[name]["broken"]
            assert differ.sum() <= n // 500
            margins = torch.minimum(whole[name]["margin"][differ].abs(), other[name]["margin"][differ].abs())
            assert (margins < 1e-4).all()
    assert 0.1 * n < whole["pgd"]["broken"].sum() < 0.9 * n
