"""AutoAttack is composed as published, runs on few classes, and answers inside its ball."""

from dataclasses import replace

import pytest
import torch
from linear import Noisy, broken, classified, cnn, falsified, keys
from torch import nn

from lit_robust.attacks import APGD, EOT, FAB, AutoAttack, Restarts, Square, TargetedAPGD, TargetedFAB, WorstOf
from lit_robust.attacks.auto_attack import dlr_or_margin
from lit_robust.counting import CountingModel
from lit_robust.errors import UserError
from lit_robust.losses import cross_entropy, dlr, margin
from lit_robust.sampling import Noise
from lit_robust.threat import ThreatModel

LINF, L2, L1 = ThreatModel("8/255"), ThreatModel("0.5", "l2"), ThreatModel(12, "l1")
BALLS = {"linf": ThreatModel("4/255"), "l2": ThreatModel("0.1", "l2"), "l1": ThreatModel("0.3", "l1")}
each_norm = pytest.mark.parametrize("threat", BALLS.values(), ids=BALLS)
VERSIONS = [("standard", "linf"), ("standard", "l2"), ("standard", "l1"), ("plus", "linf"), ("plus", "l2")]
VERSIONS += [("rand", "linf"), ("rand", "l2"), ("rand", "l1")]
each_version = pytest.mark.parametrize(("version", "norm"), VERSIONS)


def reduced(attack):
    """The same attacks with few steps, queries, restarts and draws."""
    if isinstance(attack, AutoAttack):
        small = replace(attack)
        small.__dict__["members"] = {name: reduced(member) for name, member in attack.members.items()}
        return small
    if isinstance(attack, Restarts):
        return replace(attack, attack=reduced(attack.attack), n=2)
    if isinstance(attack, EOT):
        return replace(attack, attack=reduced(attack.attack), draws=2)
    return replace(attack, queries=12) if isinstance(attack, Square) else replace(attack, steps=4)


# --- composition ---


@pytest.mark.parametrize("threat", [LINF, L2], ids=str)
def test_the_standard_version(threat):
    fab = TargetedFAB(norm=threat.norm, eps=threat.eps, steps=100, restarts=1, targets=9)
    assert dict(AutoAttack(threat=threat).members) == {
        "apgd-ce": APGD(threat=threat, steps=100, rho=0.75, loss=cross_entropy),
        "apgd-t": TargetedAPGD(threat=threat, steps=100, rho=0.75, targets=9),
        "fab-t": fab,
        "square": Square(threat=threat, queries=5000, p_init=0.8),
    }


def test_the_standard_version_in_l1_comes_from_larger_balls_and_has_more_starts_and_fewer_targets():
    stages = ((3, 0.3), (2, 0.3), (1, 0.4))
    assert dict(AutoAttack(threat=L1).members) == {
        "apgd-ce": Restarts(attack=APGD(threat=L1, steps=100, stages=stages), n=5),
        "apgd-t": TargetedAPGD(threat=L1, steps=100, stages=stages, targets=5),
        "fab-t": TargetedFAB(norm="l1", eps=12, steps=100, restarts=1, targets=9),
        "square": Square(threat=L1, queries=5000),
    }


@pytest.mark.parametrize("threat", [LINF, L2], ids=str)
def test_the_version_plus(threat):
    assert dict(AutoAttack(threat=threat, version="plus").members) == {
        "apgd-ce": Restarts(attack=APGD(threat=threat, steps=100), n=5),
        "apgd-dlr": Restarts(attack=APGD(threat=threat, steps=100, loss=dlr_or_margin), n=5),
        "fab": FAB(norm=threat.norm, eps=threat.eps, steps=100, restarts=5),
        "square": Square(threat=threat, queries=5000),
        "apgd-t": TargetedAPGD(threat=threat, steps=100, targets=9),
        "fab-t": TargetedFAB(norm=threat.norm, eps=threat.eps, steps=100, restarts=1, targets=9),
    }


@pytest.mark.parametrize("threat", [LINF, L2, L1], ids=str)
def test_the_version_for_random_networks(threat):
    assert dict(AutoAttack(threat=threat, version="rand").members) == {
        "apgd-ce": EOT(attack=APGD(threat=threat, steps=100), draws=20, reduce="losses"),
        "apgd-dlr": EOT(attack=APGD(threat=threat, steps=100, loss=dlr_or_margin), draws=20, reduce="losses"),
    }


def unwrapped(attack):
    """The attack itself, with its restarts and the draws of each gradient."""
    restarts, draws = 1, 1
    while isinstance(attack, Restarts | EOT):
        restarts, draws = getattr(attack, "n", restarts), getattr(attack, "draws", draws)
        attack = attack.attack
    return attack, max(restarts, getattr(attack, "restarts", 1)), draws


@each_version
def test_numbers_are_those_of_the_authors_code(version, norm):
    theirs = pytest.importorskip("pyautoattack.autoattack").AutoAttack
    names = {"linf": "Linf", "l2": "L2", "l1": "L1"}
    ours = AutoAttack(threat=ThreatModel("0.25", norm), version=version).members
    ref = theirs(nn.Identity(), norm=names[norm], eps=0.25, version=version, device="cpu")
    assert list(ours) == ref.attacks_to_run
    for name, member in ours.items():
        attack, restarts, draws = unwrapped(member)
        if name in ("apgd-ce", "apgd-dlr"):
            its = ref.apgd
            assert (attack.steps, attack.rho, restarts, draws) == (
                its.n_iter,
                its.thr_decr,
                its.n_restarts,
                its.eot_iter,
            )
            assert attack.loss is (cross_entropy if name == "apgd-ce" else dlr_or_margin)
        elif name == "apgd-t":
            its = ref.apgd_targeted
            assert (attack.steps, attack.rho, restarts) == (its.n_iter, its.thr_decr, its.n_restarts)
            assert attack.targets == its.n_target_classes
        elif name == "square":
            assert (attack.queries, attack.p_init) == (ref.square.n_queries, ref.square.p_init)
            assert (restarts, draws) == (ref.square.n_restarts, 1)
        else:
            its = ref.fab
            assert (attack.steps, attack.alpha_max, attack.eta, attack.beta) == (100, its.alpha_max, its.eta, its.beta)
            assert its.n_iter == 100
            if name == "fab-t":  # its code sets one restart before it runs
                assert (attack.targets, restarts) == (its.n_target_classes, 1)
            else:
                assert restarts == its.n_restarts == 5
        if "apgd" in name:
            assert (len(attack.stages) > 1) == its.use_largereps


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threat": L1, "version": "plus"}, "the version plus of AutoAttack is not published for l1; take standard"),
        ({"threat": ThreatModel(3, "l0")}, "defined in linf, l2 and l1 with a radius; got L0 3"),
        ({"threat": ThreatModel.box()}, "with a radius; got box"),
        ({"threat": ThreatModel(None, "l2")}, "with a radius; got L2, any distance"),
        ({"threat": LINF, "version": "fast"}, "expected version to be one of standard, plus, rand, got 'fast'"),
    ],
    ids=str,
)
def test_what_is_not_published_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        AutoAttack(**options)


def test_names_say_what_is_run():
    attack = AutoAttack(threat=LINF, version="plus")
    assert (str(attack), attack.label) == ("AutoAttack plus L∞ 8/255", "AutoAttack plus")
    assert attack.threat_model == LINF
    assert attack.adversarial
    assert not attack.targeted
    assert attack == AutoAttack(threat=LINF, version="plus") != AutoAttack(threat=LINF)


# --- what it answers ---


@each_version
@pytest.mark.parametrize("way", ["call", "falsify"])
def test_answers_lie_in_the_ball_although_fab_looks_beyond(version, norm, way):
    model, threat = cnn(), BALLS[norm]
    x, y = classified(model, 12)
    attack = reduced(AutoAttack(threat=threat, version=version))
    x_adv = attack(model, x, y, key=keys(12)) if way == "call" else falsified(attack, model, x, y)
    assert threat.contains(x_adv, x).all()
    assert 0 < broken(model, x_adv, y).sum() < 12


@each_norm
def test_what_a_member_breaks_it_breaks(threat):
    model = cnn()
    x, y = classified(model, 24)
    attack = reduced(AutoAttack(threat=threat))
    union = torch.zeros(24, dtype=torch.bool)
    for member in attack.members.values():
        alone = falsified(member, model, x, y)
        union |= broken(model, alone, y) & threat.contains(alone, x)
    assert torch.equal(broken(model, falsified(attack, model, x, y), y), union)
    assert 0 < union.sum() < 24


@pytest.mark.parametrize("way", ["call", "falsify"])
def test_a_worst_case_with_a_minimum_norm_attack_lies_in_the_ball(way):
    model, threat = cnn(), BALLS["l2"]
    x, y = classified(model, 24)
    fab = FAB(norm="l2", eps=threat.eps, steps=10)
    far = ~threat.contains(fab(model, x, y, key=keys(24)), x)
    assert 0 < far.sum() < 24
    worst = WorstOf(attacks=[fab, APGD(threat=threat, steps=3)])
    x_adv = worst(model, x, y, key=keys(24)) if way == "call" else falsified(worst, model, x, y)
    assert threat.contains(x_adv, x).all()
    assert broken(model, x_adv, y)[~far].all()


@pytest.mark.parametrize("classes", [2, 3, 4])
@each_version
def test_few_classes_are_enough(classes, version, norm):
    model = cnn(classes=classes)
    x, y = classified(model, 6)
    attack = reduced(AutoAttack(threat=BALLS[norm], version=version))
    for x_adv in (attack(model, x, y, key=keys(6)), falsified(attack, model, x, y)):
        assert x_adv.isfinite().all()
        assert BALLS[norm].contains(x_adv, x).all()


def test_the_dlr_loss_is_the_published_one_where_there_is_one():
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.arange(6) % 2
    for classes in (3, 5):
        assert torch.equal(dlr_or_margin(logits[:, :classes], y), dlr(logits[:, :classes], y))
    assert torch.equal(dlr_or_margin(logits[:, :2], y), -margin(logits[:, :2], y))


@pytest.mark.parametrize("version", ["standard", "rand"])
def test_a_sample_s_answer_depends_on_no_other(version):
    model = Noisy(cnn(), 0.02)
    x, y = classified(model, 5)
    attack = reduced(AutoAttack(threat=BALLS["linf"], version=version))
    whole = falsified(attack, model, x, y)
    single = [falsified(attack, model, x[i : i + 1], y[i : i + 1], keys(5)[i : i + 1]) for i in range(5)]
    torch.testing.assert_close(torch.cat(single), whole, rtol=0, atol=1e-6)


@each_version
def test_passes_are_the_most_that_a_sample_takes(version, norm):
    model, n = cnn(scale=0.1), 3
    x, y = classified(model, n)
    attack = reduced(AutoAttack(threat=ThreatModel("1/25500" if norm == "linf" else "1e-4", norm), version=version))
    counting = CountingModel(model, keys(n))
    x_adv = falsified(attack, counting, x, y)
    assert not broken(model, x_adv, y).any()  # so that all of it has run
    forwards, backwards = attack.passes(4)
    assert backwards == counting.backwards.max()
    # A search compares targets, and FAB's ends with a final search; evaluation needs neither.
    fabs, targeted = (sum(isinstance(m, k) for m in attack.members.values()) for k in (FAB | TargetedFAB, TargetedAPGD))
    assert forwards - counting.forwards.max() == 5 * fabs + 3 * targeted


def test_members_are_asked_in_their_order_and_only_for_what_is_left():
    model = cnn()
    x, y = classified(model, 24)
    attack = reduced(AutoAttack(threat=BALLS["linf"]))
    counting = CountingModel(model, keys(24))
    first = falsified(attack.members["apgd-ce"], model, x, y)
    fallen = broken(model, first, y)
    assert fallen.any()
    x_adv = falsified(attack, counting, x, y)
    assert torch.equal(x_adv[fallen], first[fallen])
    assert counting.forwards[fallen].max() < counting.forwards[~fallen].min()
    assert len(attack._members(Noise(keys(24)))) == 4
