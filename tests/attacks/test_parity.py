"""The same images as torchattacks and foolbox, where they compute the same thing."""

import pytest
import torch
from linear import classified, cnn

from lit_robust.attacks import BIM, FGSM
from lit_robust.threat import ThreatModel

torchattacks = pytest.importorskip("torchattacks")
foolbox = pytest.importorskip("foolbox")

SEEDS = range(3)
N, EPS, STEPS = 16, 8 / 255, 10


def case(seed, **options):
    model = cnn(seed, dtype=torch.float32, size=8)
    x, y = classified(model, N, dtype=torch.float32, size=8, seed=seed, **options)
    return model, x, y


def theirs(attack, model, x, y, eps):
    return attack(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y, epsilons=eps)[1]


def same_pixels(a, b):
    return ((a - b).abs() < 1e-5).double().mean().item()


@pytest.mark.parametrize("seed", SEEDS)
def test_linf_bim_equals_torchattacks_pgd_without_random_start(seed):
    model, x, y = case(seed)
    reference = torchattacks.PGD(model, eps=EPS, alpha=EPS / 4, steps=STEPS, random_start=False)(x, y)
    x_adv = BIM(threat=ThreatModel(EPS), steps=STEPS, step_size="eps/4")(model, x, y)
    assert same_pixels(x_adv, reference) >= 0.97
    assert same_pixels(x_adv, x) < 0.1
    assert torch.equal(model(x_adv).argmax(1), model(reference).argmax(1))


@pytest.mark.parametrize("seed", SEEDS)
def test_fgsm_equals_torchattacks_and_foolbox(seed):
    model, x, y = case(seed)
    x_adv = FGSM(threat=ThreatModel(EPS))(model, x, y)
    assert same_pixels(x_adv, torchattacks.FGSM(model, eps=EPS)(x, y)) >= 0.99
    assert same_pixels(x_adv, theirs(foolbox.attacks.FGSM(random_start=False), model, x, y, EPS)) >= 0.99


@pytest.mark.parametrize("seed", SEEDS)
def test_linf_bim_equals_foolbox_pgd_without_random_start(seed):
    model, x, y = case(seed)
    attack = foolbox.attacks.LinfPGD(abs_stepsize=EPS / 4, steps=STEPS, random_start=False)
    reference = theirs(attack, model, x, y, EPS)
    x_adv = BIM(threat=ThreatModel(EPS), steps=STEPS, step_size="eps/4")(model, x, y)
    assert same_pixels(x_adv, reference) >= 0.97
    assert torch.equal(model(x_adv).argmax(1), model(reference).argmax(1))


@pytest.mark.parametrize("seed", SEEDS)
def test_l2_bim_equals_foolbox_and_torchattacks_where_the_box_is_inactive(seed):
    eps = 0.25
    model, x, y = case(seed, low=0.35, high=0.65)  # no entry can leave the box
    x_adv = BIM(threat=ThreatModel(eps, "l2"), steps=STEPS, step_size="eps/4")(model, x, y)
    assert x_adv.min() > 0.05
    assert x_adv.max() < 0.95
    attack = foolbox.attacks.L2PGD(abs_stepsize=eps / 4, steps=STEPS, random_start=False)
    torch.testing.assert_close(x_adv, theirs(attack, model, x, y, eps), rtol=0, atol=1e-5)
    # torchattacks averages the loss and adds 1e-10 to the norm of its gradient.
    reference = torchattacks.PGDL2(model, eps=eps, alpha=eps / 4, steps=STEPS, random_start=False)(x, y)
    torch.testing.assert_close(x_adv, reference, rtol=0, atol=1e-4)
    assert (x_adv - x).flatten(1).norm(dim=1).tolist() == pytest.approx([eps] * N, rel=1e-4)
