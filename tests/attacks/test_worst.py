"""Restarts and worst of several: the worst case for each sample, never a better one for more work."""

import pytest
import torch
from linear import Noisy, broken, classified, cnn, falsified, keys

from lit_robust import sampling
from lit_robust.attacks import BIM, EOT, FGSM, FMN, PGD, Restarts, WorstOf
from lit_robust.errors import UserError
from lit_robust.losses import margin
from lit_robust.threat import ThreatModel

N = 128
LINF = ThreatModel("4/255")
WEAK = PGD(threat=LINF, steps=1, step_size="eps/10")  # depends much on its start
MODELS = {"deterministic": cnn(), "random": Noisy(cnn(), 0.02)}
each_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def searched(attack, model, x, y, restart=0):
    noise = sampling.Noise(keys(len(x))).restarted(restart)
    x = x.clone()
    return attack.search(model, x, y, noise).detach()


@pytest.mark.parametrize("way", ["call", "falsify"])
def test_more_restarts_never_raise_robust_accuracy_and_keep_what_earlier_ones_broke(way):
    model = MODELS["deterministic"]
    x, y = classified(model, N)
    counts, fallen = [], torch.zeros(N, dtype=torch.bool)
    for n in range(1, 7):
        attack = Restarts(attack=WEAK, n=n)
        x_adv = attack(model, x, y, key=keys(N)) if way == "call" else falsified(attack, model, x, y)
        now = broken(model, x_adv, y)
        assert (now >= fallen).all()
        fallen = now
        counts.append(int(now.sum()))
    assert counts[0] < counts[-1] < N  # some restart broke more, and not everything


@each_model
def test_an_image_that_broke_a_sample_is_kept_through_later_restarts(model):
    x, y = classified(model, N)
    before = torch.zeros(N, dtype=torch.bool)
    for n in range(1, 5):
        x_adv = falsified(Restarts(attack=WEAK, n=n), model, x, y)
        later = falsified(Restarts(attack=WEAK, n=n + 1), model, x, y)
        # What restart n broke, judged with its own draws, as it was judged when it was found.
        with torch.no_grad(), sampling.Noise(keys(N)).restarted(n - 1).keyed(-1):
            found = (model(x_adv).argmax(1) != y) & ~before
        torch.testing.assert_close(later[found | before], x_adv[found | before], rtol=0, atol=1e-12)
        before |= found
    assert 0 < before.sum() < N


def test_falsify_with_restarts_breaks_the_union_of_what_each_restart_breaks():
    model = MODELS["deterministic"]
    x, y = classified(model, N)
    start = PGD(threat=ThreatModel("16/255"), steps=0)  # breaks by luck alone
    each = [broken(model, searched(start, model, x, y, restart), y) for restart in range(5)]
    union = torch.stack(each).any(0)
    assert union.sum() > max(int(verdict.sum()) for verdict in each)
    found = broken(model, falsified(Restarts(attack=start, n=5), model, x, y), y)
    assert torch.equal(found, union)


def test_search_returns_for_each_sample_the_restart_of_smallest_margin():
    model = MODELS["deterministic"]
    x, y = classified(model, N)
    candidates = torch.stack([searched(WEAK, model, x, y, restart) for restart in range(4)])
    with torch.no_grad():
        margins = torch.stack([margin(model(candidate), y) for candidate in candidates])
    best = margins.argmin(0)
    assert best.unique().numel() == 4
    x_adv = Restarts(attack=WEAK, n=4)(model, x, y, key=keys(N))
    torch.testing.assert_close(x_adv, candidates[best, torch.arange(N)], rtol=0, atol=1e-12)


def test_targeted_restarts_keep_the_candidate_nearest_to_the_target():
    model = MODELS["deterministic"]
    x, y = classified(model, N)
    target = (y + 1) % 4
    attack = PGD(threat=LINF, steps=1, step_size="eps/4", targeted=True)
    candidates = torch.stack([searched(attack, model, x, target, restart) for restart in range(4)])
    with torch.no_grad():
        best = torch.stack([margin(model(candidate), target) for candidate in candidates]).argmax(0)
    repeated = Restarts(attack=attack, n=4)
    assert repeated.targeted
    torch.testing.assert_close(
        repeated(model, x, target, key=keys(N)), candidates[best, torch.arange(N)], rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("way", ["call", "falsify"])
def test_one_restart_is_the_attack_itself(way):
    model = MODELS["deterministic"]
    x, y = classified(model, N)
    for attack in (WEAK, PGD(threat=LINF, steps=4)):
        once = Restarts(attack=attack, n=1)
        if way == "call":
            pair = once(model, x, y, key=keys(N)), attack(model, x, y, key=keys(N))
        else:
            pair = falsified(once, model, x, y), falsified(attack, model, x, y)
        torch.testing.assert_close(*pair, rtol=0, atol=0)


@pytest.mark.parametrize("way", ["call", "falsify"])
def test_worst_of_breaks_the_union_of_its_attacks(way):
    model = MODELS["deterministic"]
    x, y = classified(model, N)
    away = PGD(threat=LINF, steps=3, loss=lambda logits, y: logits[:, 0] - logits[:, 1:].sum(1))
    back = PGD(threat=LINF, steps=3, loss=lambda logits, y: logits[:, 1:].sum(1) - logits[:, 0])
    attacks = [away, back, WEAK]
    each = [broken(model, attack(model, x, y, key=keys(N)), y) for attack in attacks]
    union = torch.stack(each).any(0)
    assert union.sum() > max(int(verdict.sum()) for verdict in each)
    worst = WorstOf(attacks=attacks)
    x_adv = worst(model, x, y, key=keys(N)) if way == "call" else falsified(worst, model, x, y)
    assert (broken(model, x_adv, y) >= union).all()


def test_order_of_the_attacks_changes_no_verdict():
    model = MODELS["deterministic"]
    x, y = classified(model, N)
    attacks = [FGSM(threat=LINF), WEAK, BIM(threat=LINF, steps=3)]
    verdicts = [broken(model, falsified(WorstOf(attacks=order), model, x, y), y) for order in (attacks, attacks[::-1])]
    assert verdicts[0].any()
    assert torch.equal(*verdicts)


def test_restarts_of_restarts_start_from_distinct_points():
    starts = []

    class Recorder(torch.nn.Module):
        def forward(self, x):
            starts.append(x.detach().clone())
            return x.flatten(1)[:, :3]

    x = torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64)
    start = PGD(threat=LINF, steps=0)
    attack = Restarts(attack=Restarts(attack=start, n=3), n=4)
    attack(Recorder(), x, torch.zeros(1, dtype=torch.long), key=keys(1))
    # Each inner restart is looked at once, and the best of three once more.
    assert len({tuple(point.flatten().tolist()) for point in starts}) == 12


def test_names_say_what_is_combined():
    assert str(Restarts(attack=WEAK, n=5)) == "PGD L∞ 4/255, step 0.4/255, random start, 5 restarts"
    both = WorstOf(attacks=[FGSM(threat=LINF), WEAK])
    named = "FGSM L∞ 4/255, step 4/255, clean start | PGD L∞ 4/255, step 0.4/255, random start"
    assert str(both) == f"worst of ({named})"
    assert both.threat_model == LINF


@pytest.mark.parametrize("wrap", [lambda a: Restarts(attack=a, n=2), lambda a: WorstOf(attacks=[a])])
def test_the_nearest_adversarial_is_not_to_be_had_from_a_wrapper(wrap):
    for attack in (FMN(norm="l2"), EOT(attack=FMN(norm="l2"), draws=2)):
        with pytest.raises(
            UserError, match=r"looks for the nearest adversarial at any distance.* set its eps, or give"
        ):
            wrap(attack)
    assert wrap(FMN(norm="l2", eps="0.3")).threat_model == ThreatModel("0.3", "l2")


@pytest.mark.parametrize("way", ["call", "falsify"])
def test_an_answer_beyond_the_radius_is_none(way):
    model, threat = MODELS["deterministic"], ThreatModel("0.1", "l2")
    x, y = classified(model, N)
    nearest = FMN(norm="l2", eps=threat.eps, steps=15)
    distance = nearest.distances(model, x, y, key=keys(N))
    assert 5 < (distance <= threat.radius).sum() < (distance < torch.inf).sum()
    worst = WorstOf(attacks=[nearest, PGD(threat=threat, steps=1, step_size="eps/10")])
    x_adv = worst(model, x, y, key=keys(N)) if way == "call" else falsified(worst, model, x, y)
    assert threat.contains(x_adv, x).all()
    assert broken(model, x_adv, y)[distance <= threat.radius].all()


def test_a_minimum_norm_attack_is_of_the_threat_model_of_its_radius():
    nearest = FMN(norm="l2", eps="0.1")
    assert WorstOf(attacks=[nearest, PGD(threat=ThreatModel("0.1", "l2"))]).threat_model == ThreatModel("0.1", "l2")
    with pytest.raises(UserError, match=r"one threat model, got L2 0\.1, L2 0.2"):
        WorstOf(attacks=[nearest, PGD(threat=ThreatModel("0.2", "l2"))])


class Unknown(PGD):
    def passes(self, classes):
        return None


def test_passes_add_up_with_one_to_compare_each():
    assert PGD(threat=LINF, steps=7).passes(10) == (7, 7)
    assert Restarts(attack=PGD(threat=LINF, steps=7), n=3).passes(10) == (24, 21)
    assert WorstOf(attacks=[FGSM(threat=LINF), PGD(threat=LINF, steps=7)]).passes(10) == (10, 8)
    assert EOT(attack=PGD(threat=LINF, steps=7), draws=5).passes(10) == (35, 35)
    unknown = Unknown(threat=LINF)
    for wrapped in (Restarts(attack=unknown, n=2), WorstOf(attacks=[WEAK, unknown]), EOT(attack=unknown, draws=2)):
        assert wrapped.passes(10) is None
