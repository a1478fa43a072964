"""Every attack answers inside its threat model, whatever the model, norm, shape, precision and batch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from linear import Noisy, cnn, falsified, keys
from torch import nn

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
from lit_robust.losses import cross_entropy, cw_margin, dlr, negative_margin
from lit_robust.threat import ThreatModel

DIAMETER = {"linf": 1.0, "l2": 108**0.5, "l1": 108.0, "box": 1.0}
CHECKED = settings(deadline=None, derandomize=True, max_examples=25)


def attack_of(name, threat, options):
    gradient = {key: options[key] for key in ("loss", "targeted")}
    search = {**gradient, "steps": options["steps"], "step_size": options["step_size"], "start": options["start"]}
    if name == "worst of":
        return WorstOf(attacks=[FGSM(threat=threat, **gradient), PGD(threat=threat, **search)])
    if name == "restarts":
        return Restarts(attack=PGD(threat=threat, **search), n=2)
    if name in ("FGSM", "RFGSM"):
        return {"FGSM": FGSM, "RFGSM": RFGSM}[name](threat=threat, **gradient)
    if name.startswith("radial"):
        return RadialPGD(threat=threat, **search, onto=name.split()[1])
    return {"PGD": PGD, "BIM": BIM}[name](threat=threat, **search)


@pytest.mark.parametrize(
    "name", ["FGSM", "RFGSM", "BIM", "PGD", "radial ball", "radial sphere", "worst of", "restarts"]
)
@given(
    seed=st.integers(0, 10_000),
    norm=st.sampled_from(["linf", "l2", "l1", "box"]),
    share=st.sampled_from([0.0, 0.003, 0.03, 0.3, 1.0]),
    n=st.integers(1, 5),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    edges=st.booleans(),
    random=st.booleans(),
    options=st.fixed_dictionaries(
        {
            "steps": st.integers(0, 4),
            "step_size": st.sampled_from(["eps/4", "eps", "3*eps"]),
            "start": st.sampled_from(["random", "clean", "gaussian"]),
            "loss": st.sampled_from([cross_entropy, cw_margin, dlr, negative_margin]),
            "targeted": st.booleans(),
        }
    ),
)
@CHECKED
def test_gradient_attacks_stay_inside(name, seed, norm, share, n, dtype, edges, random, options):
    if norm == "box" and name.startswith("radial"):
        norm = "l2"
    threat = ThreatModel.box() if norm == "box" else ThreatModel(share * DIAMETER[norm], norm)
    model = cnn(seed, dtype=dtype)
    if random:
        model = Noisy(model, 0.1)
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 3, 6, 6, generator=generator, dtype=dtype)
    x = (3 * x - 1).clamp(0, 1) if edges else x
    y = torch.randint(4, (n,), generator=generator)
    before = x.clone()
    attack = attack_of(name, threat, options)
    for x_adv in (attack(model, x, y, key=keys(n)), falsified(attack, model, x, y)):
        assert x_adv.shape == x.shape
        assert x_adv.dtype == dtype
        assert not x_adv.requires_grad
        assert x_adv.min() >= 0
        assert x_adv.max() <= 1
        assert threat.contains(x_adv, x).all()
    assert torch.equal(x, before)


@pytest.mark.parametrize("kind", [APGD, TargetedAPGD])
@given(
    seed=st.integers(0, 10_000),
    norm=st.sampled_from(["linf", "l2"]),
    share=st.sampled_from([0.0, 0.003, 0.03, 0.3, 1.0]),
    n=st.integers(1, 5),
    classes=st.integers(2, 5),
    steps=st.integers(1, 12),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    edges=st.booleans(),
    random=st.booleans(),
)
@CHECKED
def test_auto_pgd_stays_inside(kind, seed, norm, share, n, classes, steps, dtype, edges, random):
    threat = ThreatModel(share * DIAMETER[norm], norm)
    model = cnn(seed, classes=classes, dtype=dtype)
    if random:
        model = Noisy(model, 0.1)
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 3, 6, 6, generator=generator, dtype=dtype)
    x = (3 * x - 1).clamp(0, 1) if edges else x
    y = torch.randint(classes, (n,), generator=generator)
    before, attack = x.clone(), kind(threat=threat, steps=steps)
    for x_adv in (attack(model, x, y, key=keys(n)), falsified(attack, model, x, y)):
        assert x_adv.dtype == dtype
        assert not x_adv.requires_grad
        assert threat.contains(x_adv, x).all()
    assert torch.equal(x, before)


@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 5),
    amount=st.sampled_from([0.0, 0.1, 3.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
@CHECKED
def test_noise_stays_inside_the_box(seed, n, amount, dtype):
    x = torch.rand(n, 3, 6, 6, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    for attack in (GaussianNoise(sigma=amount), UniformNoise(amplitude=amount)):
        x_adv = attack(nn.Identity(), x, torch.zeros(n, dtype=torch.long), key=keys(n, seed))
        assert x_adv.dtype == dtype
        assert attack.threat_model.contains(x_adv, x).all()
        assert torch.equal(x_adv, x) == (amount == 0)


@pytest.mark.parametrize(("eps", "norm"), [("8/255", "linf"), ("0.5", "l2"), ("1", "l1"), ("12", "l1")])
def test_float32_attacks_on_cifar_sized_images_stay_inside(eps, norm):
    threat = ThreatModel(eps, norm)
    model = cnn(size=32, dtype=torch.float32)
    x = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    x_adv = PGD(threat=threat, steps=3)(model, x, torch.zeros(8, dtype=torch.long), key=keys(8))
    assert threat.contains(x_adv, x).all()
    assert (threat.distance(x_adv, x) > 0.5 * threat.radius).all()
