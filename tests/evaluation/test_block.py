"""One block: what counts as broken, what is counted, what is refused."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from evaluated import CLASSES, evaluated, images, network
from torch import nn

from lit_robust import sampling
from lit_robust.attacks import BIM, EOT, FGSM, PGD, Attack, GaussianNoise, Restarts
from lit_robust.attacks.base import searching
from lit_robust.evaluation import evaluate_block
from lit_robust.losses import margin
from lit_robust.threat import ThreatModel

LINF = ThreatModel("4/255")
N = 48


@dataclass(frozen=True, kw_only=True)
class Answers(Attack):
    """An attack that answers with a function of the images, and remembers what it was asked."""

    answer: Any
    threat: ThreatModel = LINF
    asked: list = field(default_factory=list, compare=False)

    @property
    def threat_model(self):
        return self.threat

    def search(self, model, x, y, noise):
        self.asked.append(len(x))
        return self.answer(x)


def block(model, x, y, attacks, **options):
    return evaluate_block(model, x, y, torch.arange(len(x)), attacks, **{"size": len(x), **options})


@pytest.fixture(scope="module")
def case():
    model = network("norm")
    x, y = images(model, N, wrong_every=7)
    return model, x, y


def test_the_clean_row_is_the_network_s_own_prediction(case):
    model, x, y = case
    result = block(model, x, y, {}, size=64)
    with torch.no_grad():
        logits = model(x)
    assert torch.equal(result.prediction, logits.argmax(1))
    torch.testing.assert_close(result.margin, margin(logits, y))
    clean = result.verdicts["clean"]
    assert clean.broken.tolist() == [i % 7 == 0 for i in range(N)]
    assert torch.equal(clean.x_adv, x)
    assert clean.forwards.tolist() == [1] * N
    assert clean.backwards.tolist() == [0] * N
    assert clean.distance.tolist() == [0] * N


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_with_radius_0_every_verdict_is_the_clean_one(case, norm):
    model, x, y = case
    attack = PGD(threat=ThreatModel(0, norm), steps=3, step_size="1/255")
    result = block(model, x, y, {"pgd": attack, "restarts": Restarts(attack=attack, n=2)})
    for verdict in result.verdicts.values():
        assert torch.equal(verdict.broken, result.verdicts["clean"].broken)
        assert verdict.distance.max() == 0


def test_a_verdict_is_of_the_images_that_it_holds(case):
    model, x, y = case
    verdict = block(model, x, y, {"pgd": PGD(threat=LINF, steps=5, step_size="eps/2")}).verdicts["pgd"]
    with torch.no_grad():
        logits = model(verdict.x_adv)
    assert torch.equal(verdict.broken, logits.argmax(1) != y)
    torch.testing.assert_close(verdict.margin, margin(logits, y))
    torch.testing.assert_close(verdict.distance, (verdict.x_adv - x).flatten(1).abs().amax(1))
    right = verdict.broken & (block(model, x, y, {}).prediction == y)
    assert 0 < right.sum() < N
    assert LINF.contains(verdict.x_adv, x).all()
    assert verdict.seconds > 0


def test_predictions_and_checks_are_made_in_the_shape_of_a_full_block(case):
    # A kernel may round differently in another shape; the search itself takes only those that are left.
    model, x, y = case
    seen = []
    handle = model.register_forward_pre_hook(lambda _, inputs: seen.append((len(inputs[0]), torch.is_grad_enabled())))
    try:
        block(model, x[:10], y[:10], {"pgd": PGD(threat=LINF, steps=2)}, size=64)
    finally:
        handle.remove()
    assert {n for n, searching in seen if not searching} == {64}
    assert max(n for n, searching in seen if searching) == 8  # two of ten are wrong already


def test_an_image_that_was_wrong_already_is_broken_and_is_not_attacked(case):
    model, x, y = case
    attack = Answers(answer=torch.clone)
    verdict = block(model, x, y, {"nothing": attack}).verdicts["nothing"]
    wrong = torch.arange(N) % 7 == 0
    assert attack.asked == [int((~wrong).sum())]
    assert torch.equal(verdict.broken, wrong)
    assert verdict.forwards.sum() == 0


def test_what_an_attack_claims_does_not_count(case):
    # It hands back clean images as if it had broken them all.
    model, x, y = case

    @dataclass(frozen=True, kw_only=True)
    class Boasts(Answers):
        def broken(self, logits, y):
            return super().broken(logits, y)

        def falsify(self, model, x, y, noise, *, leave=True):
            return x

    assert not block(model, x[1:7], y[1:7], {"boasts": Boasts(answer=None)}).verdicts["boasts"].broken.any()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x: (x + 8 / 255).clamp(0, 1), "'bad' left its threat model L∞ 4/255: distance 0.03137"),
        (lambda x: x + 3 / 255, "left its threat model"),  # inside the ball, outside the box
        (lambda x: x - 3 / 255, "left its threat model"),
        (lambda x: x * float("nan"), "left its threat model"),
        (lambda x: x + (torch.arange(len(x)) == 1).view(-1, 1, 1, 1) * 5 / 255, "left its threat model"),  # one sample
    ],
    ids=["ball", "above the box", "below the box", "nan", "one sample"],
)
def test_an_attack_that_leaves_its_threat_model_raises(case, answer, message):
    model, x, y = case
    with pytest.raises(ValueError, match=message):
        block(model, x, y, {"good": FGSM(threat=LINF), "bad": Answers(answer=answer)})


def test_an_attack_may_reach_the_very_edge(case):
    model, x, y = case
    x = x.float()
    attack = Answers(answer=lambda x: torch.clamp(x + 4 / 255, max=1))
    assert block(model.float(), x, y, {"edge": attack}).verdicts["edge"].distance.max() > 3.9 / 255
    model.double()


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Dropout2d(0.5)], ids=lambda m: str(m)[:9])
def test_train_mode_is_refused(layer):
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(108, CLASSES))
    x, y = torch.rand(4, 3, 6, 6), torch.zeros(4, dtype=torch.long)
    model.train()
    with pytest.raises(ValueError, match="expected the network in eval mode, but 0 is in train mode"):
        block(model, x, y, {"fgsm": FGSM(threat=LINF)})
    block(model.eval(), x, y, {"fgsm": FGSM(threat=LINF)})


def test_a_targeted_attack_is_refused(case):
    model, x, y = case
    with pytest.raises(ValueError, match="attack 'pgd' is targeted"):
        block(model, x, y, {"pgd": PGD(threat=LINF, targeted=True)})


def test_the_network_and_the_images_stay_as_they_were(case):
    model, x, y = case
    state = {name: value.clone() for name, value in model.state_dict().items()}
    before = x.clone(), y.clone()
    block(model, x, y, {"pgd": PGD(threat=LINF, steps=3), "noise": GaussianNoise(sigma=0.1)})
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not model.training
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])


class Bright(nn.Module):
    """Class 1 if an image is brighter than 127.2/255."""

    def forward(self, x):
        z = (x.flatten(1).mean(1, keepdim=True) - 127.2 / 255) * 1000
        return torch.cat([-z, z], 1)


@pytest.mark.parametrize(
    ("threat", "move", "survives"),
    [
        (ThreatModel("4/255"), 4 / 255, True),
        (ThreatModel("4/255"), 1.4 / 255, True),
        (ThreatModel("4/255"), 0.4 / 255, False),  # rounds back to the image
        (ThreatModel("4.4/255"), 4.4 / 255, True),  # to 4
        (ThreatModel("3.6/255"), 3.6 / 255, False),  # to 4, which is too far
        (ThreatModel.box(), 0.4 / 255, False),
        (ThreatModel.box(), 3.6 / 255, True),
    ],
    ids=str,
)
def test_an_adversarial_survives_8_bit_if_its_rounded_image_is_wrong_and_in_the_ball(threat, move, survives):
    x = torch.full((3, 1, 2, 2), 127 / 255, dtype=torch.float64)
    x[1] = 130 / 255  # wrong already
    attack = Answers(answer=lambda x: (x + move * (x < 0.5)).clamp(0, 1), threat=threat)
    verdict = block(Bright().eval(), x, torch.zeros(3, dtype=torch.long), {"a": attack}).verdicts["a"]
    assert verdict.broken.all()
    assert verdict.survives.tolist() == [survives, True, survives]


# --- counts ---


def test_fgsm_takes_one_forward_and_one_backward_pass_a_sample(case):
    model, x, y = case
    verdict = block(model, x, y, {"fgsm": FGSM(threat=LINF)}).verdicts["fgsm"]
    expected = [int(i % 7 != 0) for i in range(N)]
    assert verdict.forwards.tolist() == expected
    assert verdict.backwards.tolist() == expected


@pytest.mark.parametrize(("n", "steps", "checks"), [(1, 5, 0), (3, 4, 3)])
def test_without_leaving_pgd_takes_as_many_passes_as_steps(case, n, steps, checks):
    model, x, y = case
    attack = PGD(threat=LINF, steps=steps)
    attack = Restarts(attack=attack, n=n) if n > 1 else attack
    verdict = block(model, x, y, {"pgd": attack}, leave=False).verdicts["pgd"]
    right = torch.arange(N) % 7 != 0
    assert verdict.forwards[right].tolist() == [n * steps + checks] * int(right.sum())  # restarts are compared
    assert verdict.backwards[right].tolist() == [n * steps] * int(right.sum())
    assert verdict.forwards[~right].sum() == verdict.backwards[~right].sum() == 0


def test_a_sample_that_leaves_costs_what_it_took_to_break_it(case):
    model, x, y = case
    steps = 6
    with torch.no_grad():
        wrong = torch.stack([model(BIM(threat=LINF, steps=s)(model, x, y)).argmax(1) != y for s in range(steps)])
    first = [wrong[:, i].nonzero()[0].item() if wrong[:, i].any() else steps for i in range(N)]
    counts = evaluated(model, x, y, {"bim": BIM(threat=LINF, steps=steps)}, size=1)["bim"]
    # At its first wrong iterate it is looked at and leaves; what was wrong before was never attacked.
    assert counts["forwards"].tolist() == [0 if f == 0 else min(f + 1, steps) for f in first]
    assert counts["backwards"].tolist() == list(first)
    assert len(set(first)) >= 4


def test_a_block_counts_at_most_the_backward_pass_that_a_sample_leaves_in(case):
    # The pass of the step in which a sample leaves is shared with those that go on.
    model, x, y = case
    attacks = {"pgd": PGD(threat=LINF, steps=6)}
    alone, together = (evaluated(model, x, y, attacks, size=size)["pgd"]["backwards"] for size in (1, N))
    assert ((together - alone >= 0) & (together - alone <= 1)).all()


# --- noise and the cascade ---


def test_noise_sees_every_image_and_may_turn_it_right(case):
    model, x, y = case
    verdict = block(model, x, y, {"noise": GaussianNoise(sigma=0.2)}).verdicts["noise"]
    wrong = torch.arange(N) % 7 == 0
    assert (verdict.distance > 0).all()
    assert (~verdict.broken & wrong).any()
    assert verdict.forwards.sum() == verdict.backwards.sum() == 0


CASCADE = {
    "fgsm": FGSM(threat=LINF, step_size="eps/2"),  # leaves something for the others
    "l2": PGD(threat=ThreatModel("0.2", "l2"), steps=4),
    "pgd": PGD(threat=LINF, steps=5, step_size="eps/2"),
    "restarts": Restarts(attack=PGD(threat=LINF, steps=3, step_size="eps/2"), n=3),
}


def test_a_cascade_gives_the_same_worst_case_for_fewer_passes(case):
    model, x, y = case
    alone = block(model, x, y, CASCADE).verdicts
    cascade = block(model, x, y, CASCADE, cascades=dict.fromkeys(CASCADE, "all")).verdicts
    worst = torch.stack([alone[name].broken for name in ("fgsm", "pgd", "restarts")])
    assert worst.any(0).sum() > worst[0].sum() > 7
    # Each figure is of the cascade so far, within one threat model.
    for i, name in enumerate(("fgsm", "pgd", "restarts")):
        assert torch.equal(cascade[name].broken, worst[: i + 1].any(0))
    assert torch.equal(cascade["l2"].broken, alone["l2"].broken)
    assert cascade["l2"].forwards.tolist() == alone["l2"].forwards.tolist()
    assert cascade["pgd"].forwards[alone["fgsm"].broken].sum() == 0
    assert cascade["pgd"].forwards.sum() < alone["pgd"].forwards.sum()


def test_a_cascade_hands_on_the_images_that_broke_a_sample(case):
    model, x, y = case
    result = block(model, x, y, CASCADE, cascades=dict.fromkeys(CASCADE, "all"))
    fallen = result.verdicts["fgsm"].broken & (result.prediction == y)
    assert fallen.any()
    last = result.verdicts["restarts"]
    assert torch.equal(last.x_adv[fallen], result.verdicts["fgsm"].x_adv[fallen])
    assert (last.distance[last.broken & (result.prediction == y)] > 0).all()
    assert torch.equal(last.margin < 0, last.broken)


def test_noise_breaks_nothing_for_an_adversary_in_the_box(case):
    model, x, y = case
    attacks = {"noise": GaussianNoise(sigma=0.3), "box": Answers(answer=torch.clone, threat=ThreatModel.box())}
    for cascade in (False, True):
        verdicts = block(model, x, y, attacks, cascades=dict.fromkeys(attacks, "all") if cascade else {}).verdicts
        assert torch.equal(verdicts["box"].broken, verdicts["clean"].broken)
        assert verdicts["noise"].broken.sum() > verdicts["clean"].broken.sum()


def test_the_caller_is_told_which_attack_comes_next(case):
    model, x, y = case
    told = []
    block(model, x, y, CASCADE, before=told.append)
    assert told == list(CASCADE)


# --- random networks ---


@pytest.mark.parametrize("wrapped", [False, True], ids=["pgd", "eot"])
def test_a_lucky_draw_does_not_end_the_search_on_a_random_network(wrapped):
    # Judged on fresh draws: stopping at the first wrong draw finds far less than going on to the end.
    model = network("random")
    n = 200
    x, y = images(model, n)
    pgd = PGD(threat=ThreatModel("8/255"), steps=20)
    attack = EOT(attack=pgd, draws=4) if wrapped else pgd
    noise = sampling.Noise(sampling.keys(torch.arange(n)))
    with searching(model):
        full = attack.search(model, x.clone(), y, noise).detach()
    with torch.no_grad(), noise.keyed(-3):
        to_the_end = int((model(full).argmax(1) != y).sum())
    found = int(block(model, x, y, {"attack": attack}).verdicts["attack"].broken.sum())
    assert to_the_end > n // 3
    assert found > 0.9 * to_the_end


@pytest.mark.parametrize("label", [-1, CLASSES])
def test_a_label_that_the_network_has_no_logit_for_is_refused(case, label):
    model, x, y = case
    with pytest.raises(ValueError, match=rf"expected labels from 0 to {CLASSES - 1}, got"):
        block(model, x, torch.where(torch.arange(N) == 3, label, y), {})
