"""On a linear model the strongest perturbation is known; the attacks have to reach it."""

import pytest
import torch
from linear import TwoClasses, keys, optimum
from torch import nn

from lit_robust.attacks import BIM, FGSM, PGD, RFGSM, RadialPGD
from lit_robust.losses import cross_entropy, cw_margin, negative_margin
from lit_robust.threat import ThreatModel

SHAPE = (3, 4, 4)
THREATS = [ThreatModel("8/255"), ThreatModel("0.3", "l2"), ThreatModel("0.4", "l1")]
CUT = [ThreatModel("0.5"), ThreatModel("2", "l2"), ThreatModel("6", "l1")]  # the box cuts these
by_name = {"ids": str}


def weights(seed=0):
    return 0.3 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def middle(n=4):
    return torch.full((n, *SHAPE), 0.5, dtype=torch.float64)


def corners(n=4, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.rand(n, *SHAPE, generator=generator, dtype=torch.float64) - 0.5).clamp(0, 1)


def decrease(attack, w, x):
    """How far each sample's margin of class 0 falls."""
    x_adv = attack(TwoClasses(w), x, torch.zeros(len(x), dtype=torch.long), key=keys(len(x)))
    assert attack.threat_model.contains(x_adv, x).all()
    return ((x - x_adv) * w).flatten(1).sum(1)


def largest(w, x, threat):
    return (optimum(-w, x, threat) * -w).flatten(1).sum(1)


@pytest.mark.parametrize("threat", THREATS, **by_name)
def test_the_optimum_in_the_middle_of_the_box_is_the_closed_form(threat):
    # The dual norm of w times eps: what the solver below has to give where the box does not matter.
    w = weights()
    dual = {"linf": 1, "l2": 2, "l1": torch.inf}[threat.norm]
    expected = threat.radius * torch.linalg.vector_norm(w.flatten(), ord=dual)
    torch.testing.assert_close(largest(w, middle(), threat), expected.expand(4))


@pytest.mark.parametrize("threat", THREATS, **by_name)
def test_one_step_from_the_image_is_optimal_in_the_middle_of_the_box(threat):
    w, x = weights(), middle()
    torch.testing.assert_close(decrease(FGSM(threat=threat), w, x), largest(w, x, threat))


@pytest.mark.parametrize("threat", THREATS, **by_name)
def test_one_step_gives_the_closed_form_perturbation(threat):
    w, x = weights(), middle(1)
    delta = FGSM(threat=threat)(TwoClasses(w), x, torch.zeros(1, dtype=torch.long))[0] - 0.5
    eps = threat.radius
    if threat.norm == "linf":
        expected = -eps * w.sign()
    elif threat.norm == "l2":
        expected = -eps * w / w.norm()
    else:
        expected = torch.where(w.abs() == w.abs().max(), -eps * w.sign(), 0.0)
    torch.testing.assert_close(delta, expected)


@pytest.mark.parametrize("start", ["random", "clean", "gaussian"])
@pytest.mark.parametrize("threat", [*THREATS, *CUT], **by_name)
@pytest.mark.parametrize("loss", [cross_entropy, negative_margin, cw_margin])
def test_pgd_reaches_the_optimum_also_where_the_box_cuts_the_ball(threat, start, loss):
    w, x = weights(), corners()
    steps, size = (150, "eps/40") if threat.norm == "l1" else (80, "eps/10")
    # Where the box cuts, an L1 optimum rests on more entries of the box than the default share of 48 moves: one.
    share = 0.2 if threat in CUT else 0.01
    attack = PGD(threat=threat, steps=steps, step_size=size, start=start, loss=loss, l1_share=share)
    reached = decrease(attack, w, x) / largest(w, x, threat)
    assert reached.min() >= (0.97 if threat.norm == "l1" else 0.99)
    assert reached.max() <= 1 + 1e-9


def test_box_attack_reaches_the_corner_of_the_box():
    w, x = weights(), corners()
    threat = ThreatModel.box()
    reached = decrease(PGD(threat=threat, steps=10, step_size=0.25), w, x)
    torch.testing.assert_close(reached, largest(w, x, ThreatModel(1)))


def test_rfgsm_and_bim_reach_the_linf_optimum():
    w, x, threat = weights(), corners(), ThreatModel("8/255")
    best = largest(w, x, threat)
    torch.testing.assert_close(decrease(BIM(threat=threat, steps=4), w, x), best)
    # A step of 1.25 eps crosses the ball from all but the farthest eight of a random start.
    one_step = decrease(RFGSM(threat=threat), w, x) / best
    assert ((one_step > 0.9) & (one_step < 1 - 1e-6)).all()
    torch.testing.assert_close(decrease(RFGSM(threat=threat, step_size="2*eps"), w, x), best)


@pytest.mark.parametrize("onto", ["ball", "sphere"])
def test_radial_pgd_reaches_the_l2_optimum_in_the_middle_of_the_box(onto):
    w, x, threat = weights(), middle(), THREATS[1]
    attack = RadialPGD(threat=threat, steps=60, step_size="eps/4", onto=onto)
    assert (decrease(attack, w, x) / largest(w, x, threat)).min() >= 0.99


def test_radial_pgd_in_l1_steps_along_the_gradient_and_falls_short_of_the_optimum():
    w, x, threat = weights(), middle(), THREATS[2]
    attack = RadialPGD(threat=threat, steps=1, step_size="eps", start="clean")
    x_adv = attack(TwoClasses(w), x, torch.zeros(4, dtype=torch.long))
    torch.testing.assert_close(x_adv - x, (-threat.radius * w / w.abs().sum()).expand(4, -1, -1, -1))
    more = RadialPGD(threat=threat, steps=40, step_size="eps/8")
    assert (decrease(more, w, x) < 0.9 * largest(w, x, threat)).all()


def test_radial_pgd_in_l1_and_l2_scales_onto_the_sphere_or_into_the_ball():
    w, x = weights(), middle()
    for threat in THREATS[1:]:
        short = {"threat": threat, "steps": 1, "step_size": "eps/4", "start": "clean"}
        for onto, length in (("ball", 0.25), ("sphere", 1.0)):
            x_adv = RadialPGD(**short, onto=onto)(TwoClasses(w), x, torch.zeros(4, dtype=torch.long))
            assert threat.distance(x_adv, x).tolist() == pytest.approx([length * threat.radius] * 4)


@pytest.mark.parametrize("threat", THREATS, **by_name)
def test_a_targeted_attack_raises_the_target_and_an_untargeted_one_lowers_the_label(threat):
    w, x = weights(), middle()
    y = torch.zeros(4, dtype=torch.long)
    away = FGSM(threat=threat)(TwoClasses(w), x, y)
    towards = FGSM(threat=threat, targeted=True)(TwoClasses(w), x, y)
    torch.testing.assert_close(towards - x, x - away)
    torch.testing.assert_close(FGSM(threat=threat, targeted=True)(TwoClasses(w), x, 1 - y), away)


@pytest.mark.parametrize("threat", THREATS, **by_name)
def test_any_callable_is_ascended(threat):
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 5, dtype=torch.float64))
    with torch.no_grad():
        model[1].weight.copy_(torch.stack([weights(seed).flatten() for seed in range(5)]))
    x, y = corners(), torch.zeros(4, dtype=torch.long)
    rise = (model[1].weight[3] - model[1].weight[2]).detach().view(SHAPE)
    attack = PGD(threat=threat, steps=150, step_size="eps/40", loss=lambda logits, y: logits[:, 3] - logits[:, 2])
    reached = ((attack(model, x, y, key=keys(4)) - x) * rise).flatten(1).sum(1)
    best = (optimum(rise, x, threat) * rise).flatten(1).sum(1)
    assert (reached / best).min() >= 0.97
