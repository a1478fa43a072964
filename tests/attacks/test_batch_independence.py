"""A sample's result depends neither on its batch, nor on its place in it, nor on who else has left."""

import pytest
import torch
from linear import Noisy, broken, classified, cnn, falsified, keys

from lit_robust.attacks import (
    APGD,
    BIM,
    FGSM,
    PGD,
    RFGSM,
    GaussianNoise,
    RadialPGD,
    Restarts,
    TargetedAPGD,
    UniformNoise,
    WorstOf,
)
from lit_robust.losses import dlr
from lit_robust.threat import ThreatModel

LINF, L2, L1 = ThreatModel("6/255"), ThreatModel("0.15", "l2"), ThreatModel("0.5", "l1")
PGD_LINF = PGD(threat=LINF, steps=5)
ATTACKS = {
    "FGSM": FGSM(threat=LINF),
    "R+FGSM": RFGSM(threat=LINF),
    "BIM": BIM(threat=LINF),
    "PGD": PGD_LINF,
    "PGD DLR": PGD(threat=LINF, steps=5, loss=dlr),
    "PGD targeted": PGD(threat=LINF, steps=5, targeted=True),
    "PGD L2": PGD(threat=L2, steps=5),
    "PGD L1": PGD(threat=L1, steps=8),
    "RadialPGD L2": RadialPGD(threat=L2, steps=5),
    "RadialPGD L1": RadialPGD(threat=L1, steps=5, onto="sphere"),
    "APGD": APGD(threat=LINF, steps=8),
    "APGD L2": APGD(threat=L2, steps=8, loss=dlr),
    "targeted APGD": TargetedAPGD(threat=LINF, steps=5),
    "targeted APGD L2": TargetedAPGD(threat=L2, steps=5, targets=2),
    "ensemble": WorstOf(attacks=[APGD(threat=LINF, steps=4), TargetedAPGD(threat=LINF, steps=4)]),
    "restarts": Restarts(attack=PGD(threat=LINF, steps=3), n=3),
    "worst of": WorstOf(attacks=[FGSM(threat=LINF), Restarts(attack=PGD_LINF, n=2), BIM(threat=LINF)]),
    "restarts of worst of": Restarts(attack=WorstOf(attacks=[FGSM(threat=LINF), PGD_LINF]), n=2),
}
NOISES = {"Gaussian": GaussianNoise(sigma=0.1), "uniform": UniformNoise(amplitude=0.1)}
MODELS = {"deterministic": cnn(), "random": Noisy(cnn(), 0.02)}
N = 8


def labels(model, attack):
    x, y = classified(model, N)
    return x, (y + 1) % 4 if attack.targeted else y


@pytest.mark.parametrize("way", ["call", "falsify", "falsify without leaving"])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("attack", [*ATTACKS.values(), *NOISES.values()], ids=[*ATTACKS, *NOISES])
def test_a_batch_of_one_gives_what_a_batch_of_eight_gives_in_any_order(attack, model, way):
    def run(x, y, key):
        if way == "call":
            return attack(model, x, y, key=key)
        return falsified(attack, model, x, y, key, leave=way == "falsify")

    (x, y), key = labels(model, attack), keys(N)
    whole = run(x, y, key)
    order = torch.tensor([3, 6, 0, 7, 5, 1, 4, 2])
    shuffled = torch.empty_like(whole)
    shuffled[order] = run(x[order], y[order], key[order])
    single = torch.cat([run(x[i : i + 1], y[i : i + 1], key[i : i + 1]) for i in range(N)])
    for other in (shuffled, single):
        torch.testing.assert_close(other, whole, rtol=0, atol=1e-9)
        assert torch.equal(broken(model, other, y), broken(model, whole, y))


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_leaving_changes_neither_verdict_nor_image(attack, model):
    x, y = labels(model, attack)
    leaving = falsified(attack, model, x, y, leave=True)
    staying = falsified(attack, model, x, y, leave=False)
    torch.testing.assert_close(leaving, staying, rtol=0, atol=1e-12)
    assert torch.equal(broken(model, leaving, y), broken(model, staying, y))


def test_the_samples_of_these_tests_break_at_different_times():
    # Otherwise the tests above would not see a sample leave.
    model = MODELS["deterministic"]
    x, y = classified(model, N)
    counts = [
        broken(model, falsified(BIM(threat=LINF, steps=steps), model, x, y), y).sum().item() for steps in (0, 1, 5)
    ]
    assert counts[0] == 0
    assert 0 < counts[1] < counts[2] < N


def test_samples_that_have_left_cost_no_forward_passes():
    model = MODELS["deterministic"]
    x, y = classified(model, N)
    sizes = []
    handle = model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    try:
        falsified(PGD_LINF, model, x, y, leave=True)
        leaving, sizes[:] = sizes[:], []
        falsified(PGD_LINF, model, x, y, leave=False)
    finally:
        handle.remove()
    assert leaving == sorted(leaving, reverse=True)
    assert leaving[-1] < N
    assert sizes == [N] * 5


def test_falsify_returns_the_first_adversarial_of_each_sample():
    model = MODELS["deterministic"]
    x, y = classified(model, N)
    iterates = [BIM(threat=LINF, steps=steps)(model, x, y) for steps in range(6)]
    verdicts = torch.stack([broken(model, iterate, y) for iterate in iterates])
    found = falsified(BIM(threat=LINF, steps=5), model, x, y)
    for i in range(N):
        first = verdicts[:, i].nonzero()[0].item() if verdicts[:, i].any() else 5
        torch.testing.assert_close(found[i], iterates[first][i], rtol=0, atol=1e-12)


def test_falsify_breaks_whatever_the_last_iterate_breaks():
    model = MODELS["deterministic"]
    x, y = classified(model, 32)
    for attack in (PGD_LINF, ATTACKS["PGD L2"], ATTACKS["PGD L1"]):
        last = broken(model, attack(model, x, y, key=keys(32)), y)
        assert last.any()
        assert (broken(model, falsified(attack, model, x, y), y) >= last).all()


def test_keys_decide_the_start_and_default_to_torch_s_generator():
    model = MODELS["deterministic"]
    x, y = classified(model, N)
    start = PGD(threat=LINF, steps=0)
    assert torch.equal(start(model, x, y, key=keys(N)), start(model, x, y, key=keys(N)))
    assert not torch.equal(start(model, x, y, key=keys(N)), start(model, x, y, key=keys(N, seed=1)))
    torch.manual_seed(0)
    first, second = start(model, x, y), start(model, x, y)
    torch.manual_seed(0)
    assert torch.equal(start(model, x, y), first)
    assert not torch.equal(first, second)


def test_a_keyed_attack_leaves_torch_s_generator_alone():
    x, y = classified(MODELS["random"], N)
    before = torch.get_rng_state()
    ATTACKS["restarts of worst of"](MODELS["random"], x, y, key=keys(N))
    assert torch.equal(torch.get_rng_state(), before)
