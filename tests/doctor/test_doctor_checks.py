"""Every mistake that the doctor knows is made once and caught, by the check that is meant for it."""

import pytest
import torch
import torch.nn.functional as F
from doctor_subjects import THREAT, Reads, Stripes, said, subject, verdicts
from torch import nn

from lit_robust import ThreatModel, sampling
from lit_robust.attacks import (
    APGD,
    BIM,
    EOT,
    FGSM,
    PGD,
    RFGSM,
    AutoAttack,
    GaussianNoise,
    Restarts,
    Square,
    Through,
    UniformNoise,
    WorstOf,
)
from lit_robust.callbacks import LayerSNR, RobustEval
from lit_robust.data.images import Images
from lit_robust.doctor import CHECKS, Check, diagnose
from lit_robust.doctor.diagnosis import Diagnosis, ok, refused
from lit_robust.doctor.guard import guard
from lit_robust.errors import UserError
from lit_robust.nn import Standardize
from lit_robust.regimes import AdversarialTraining, Natural


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def caught(check, about, verdict, *words):
    found = [each for each in said(check, about) if each.verdict == verdict]
    assert found, said(check, about)
    assert all(word in found[0].message for word in words), found[0].message
    assert found[0].check == check
    assert found[0].mend


def test_a_healthy_subject_gives_no_error_and_no_warning():
    attacks = {
        "model.attack": FGSM(threat=THREAT),
        "evaluation.attacks.pgd": Restarts(attack=PGD(threat=THREAT), n=3),
        "evaluation.attacks.auto": AutoAttack(threat=THREAT),
        "evaluation.attacks.l2": PGD(threat=ThreatModel(0.3, "l2")),
        "evaluation.attacks.noise": GaussianNoise(sigma=0.1),
    }
    about = subject(attacks=attacks, evaluation=RobustEval({"pgd": PGD(threat=THREAT)}), trained=True)
    found = list(diagnose(about))
    assert [each for each in found if each.verdict in ("warning", "error")] == []
    assert {each.check for each in found if each.verdict == "skipped"} == {"regime", "measurements"}
    assert {each.check for each in found} == {check.name for check in CHECKS}


class Hands(Stripes):
    """Hands over images that something has been done to."""

    def __init__(self, change, **options):
        super().__init__(**options)
        self.change = change

    def on_after_batch_transfer(self, batch, dataloader_idx):
        x, y, index = super().on_after_batch_transfer(batch, dataloader_idx)
        return self.change(x), y, index


@pytest.mark.parametrize(
    ("change", "verdict", "words"),
    [
        (lambda x: 255 * x, "error", "divide by 255"),
        (lambda x: (255 * x).to(torch.uint8), "error", "divide 8-bit images by 255"),
        (lambda x: (x - 0.3) / 0.3, "error", "Standardize"),
        (lambda x: 2 * x - 1, "error", "[-1, 1]"),
        (lambda x: 1.5 * x, "error", "stay in that box"),
        (lambda x: x / 255, "warning", "divided by 255 twice"),
        (lambda x: x / x.new_zeros(()), "error", "not finite"),
    ],
)
def test_another_range_is_caught(change, verdict, words):
    caught("image range", subject(data=Hands(change)), verdict, words)


STATISTICS = ([0.345], [0.342])


def test_standardising_once_is_fine_and_twice_is_not():
    assert verdicts("standardisation", subject(Reads(Standardize(*STATISTICS)))) == ["ok"]
    twice = nn.Sequential(Standardize(*STATISTICS), Standardize(*STATISTICS))
    caught("standardisation", subject(Reads(twice)), "error", "before.1", "standardised already")


def test_statistics_of_other_data_are_caught_with_those_of_these():
    caught("standardisation", subject(Reads(Standardize([0.1307], [0.3081]))), "warning", "another data set", "[0.34")
    caught("standardisation", subject(Reads(Standardize([0.345], [0.2]))), "warning", "another data set")


def test_standardising_twice_by_hand_is_seen_at_the_first_weights():
    def by_hand(times):
        return nn.Sequential(
            Function(lambda x: (x - 0.345) / 0.2 if times == 1 else ((x - 0.345) / 0.2 - 0.345) / 0.2),
            nn.Conv2d(1, 1, 1),
        )

    assert verdicts("standardisation", subject(Reads(by_hand(1)))) == ["ok"]
    caught("standardisation", subject(Reads(by_hand(2))), "warning", "standardised twice")


@pytest.mark.parametrize(
    ("name", "after", "words"),
    [
        ("output is a tensor", lambda z: (z, z), "got tuple"),
        ("class count", lambda z: torch.cat([z, z], 1), "set num_classes: 3"),
        ("finite logits", lambda z: z / 0, "not finite"),
        ("logits, not probabilities", lambda z: z.softmax(1), "remove the final softmax"),
    ],
)
def test_what_is_no_logit_is_caught_by_its_own_row_and_nothing_else_is_asked(name, after, words):
    about = subject(Reads(after=Function(after)))
    caught(name, about, "error", words)
    found = list(diagnose(about))
    assert [each.check for each in found if each.verdict == "error"] == [name]
    skipped = {each.check for each in found if each.found == f"after the error in {name}"}
    assert {"regime", "batch independence", "radius 0 is clean"} <= skipped
    assert "sets do not overlap" not in skipped


def test_the_regime_s_own_refusals_are_a_row():
    model = AdversarialTraining(Reads(), attack=PGD(threat=ThreatModel(7, "l2")))
    caught("regime", subject(model.network, model=model), "error", "7/255?")
    assert verdicts("regime", subject(model=Natural(Reads()))) == ["ok"]


def test_outputs_of_a_sigmoid_and_constant_ones_are_caught():
    caught("squashed outputs", subject(Reads(after=nn.Sigmoid())), "warning", "[0, 1]")
    caught("squashed outputs", subject(Reads(after=Function(lambda z: 0 * z + 7))), "warning", "same for 4 images")


class Stubborn(nn.Dropout):
    def train(self, mode=True):
        self.training = True
        return self


def test_layers_that_stay_in_train_mode_are_caught():
    caught("eval mode", subject(Reads(Stubborn(0.1))), "error", "Stubborn (before)")
    network = Reads(nn.Dropout(0.5)).train()
    assert verdicts("eval mode", subject(network)) == ["ok"]
    assert network.before.training


def test_batch_statistics_in_eval_mode_are_caught():
    wrong = Reads(Function(lambda x: F.batch_norm(x, None, None, training=True)))
    caught("batch independence", subject(wrong), "error", "running statistics")
    assert verdicts("batch independence", subject(Reads(nn.BatchNorm2d(1)))) == ["ok"]


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen += len(x)
        return x


def test_state_that_moves_in_eval_mode_is_caught_and_put_back():
    network = Reads(Counts())
    caught("state in eval mode", subject(network), "error", "before.seen")
    assert network.before.seen == 0


class Keyed(nn.Module):
    def forward(self, x):
        return x + 0.2 * sampling.layer_normal(x)


def test_random_numbers_that_no_sample_owns_are_caught():
    caught("own randomness", subject(Reads(Function(lambda x: F.dropout(x, 0.5)))), "warning", "F.dropout")
    assert verdicts("own randomness", subject(Reads(nn.Dropout(0.5)))) == ["ok"]
    assert verdicts("own randomness", subject(Reads(Keyed()))) == ["ok"]
    assert verdicts("batch independence", subject(Reads(Keyed()))) == ["ok"]


def test_a_random_network_under_single_draws_is_caught():
    caught("mean gradient", subject(Reads(Keyed())), "warning", "EOT", "evaluation.attacks.pgd follows")
    assert verdicts("mean gradient", subject(Reads(Keyed()), attack=EOT(attack=BIM(threat=THREAT), draws=2))) == [
        "skipped"
    ]
    assert verdicts("mean gradient", subject()) == ["ok"]


REACH = [
    (BIM(threat=THREAT, steps=3, step_size="eps/4"), "3 steps of 2/255 go 6/255 at most"),
    (PGD(threat=THREAT, steps=2, step_size="1/255"), "12% of the pixels"),
    (PGD(threat=ThreatModel(1, "l2"), steps=2, step_size=0.25), "other half of the ball"),
    (Restarts(n=2, attack=BIM(threat=THREAT, steps=1, step_size="eps/4")), "take 4 steps or more"),
    (EOT(draws=2, attack=WorstOf(attacks=[FGSM(threat=THREAT), FGSM(threat=THREAT, step_size="7/255")])), "7/255"),
]


@pytest.mark.parametrize(("attack", "words"), REACH)
def test_a_search_that_cannot_reach_its_radius_is_caught(attack, words):
    caught("steps reach eps", subject(attack=attack), "warning", words)


@pytest.mark.parametrize(
    "attack",
    [
        FGSM(threat=THREAT),
        RFGSM(threat=THREAT),
        BIM(threat=THREAT, steps=4),
        PGD(threat=ThreatModel(0), steps=1, step_size="1/255"),
    ],
)
def test_a_search_that_just_reaches_it_is_fine(attack):
    assert verdicts("steps reach eps", subject(attack=attack)) != ["warning"]


def test_what_has_no_steps_is_skipped():
    for attack in (Square(threat=THREAT), APGD(threat=THREAT), PGD(threat=THREAT, steps=0)):
        assert verdicts("steps reach eps", subject(attack=attack)) == ["skipped"]


def test_step_sizes_and_noise_of_grey_levels_are_caught():
    caught("step sizes", subject(attack=PGD(threat=THREAT, step_size=2)), "error", "2/255")
    caught("step sizes", subject(attack=PGD(threat=THREAT, step_size="17/255")), "warning", "diameter")
    assert verdicts("step sizes", subject(attack=PGD(threat=THREAT, step_size="16/255"))) == ["ok"]
    caught("noise", subject(attack=GaussianNoise(sigma=8)), "error", "8/255")
    caught("noise", subject(attack=UniformNoise(amplitude=2)), "error", "2/255")


def test_radii_of_grey_levels_are_caught():
    with pytest.raises(UserError, match="8/255"):
        ThreatModel(8)
    caught("radii", subject(attack=PGD(threat=ThreatModel(8, "l2"))), "error", "8/255")
    caught("radii", subject(attack=PGD(threat=ThreatModel(2, "l2"))), "warning", "another class")
    caught("radii", subject(attack=PGD(threat=ThreatModel(0.5))), "warning", "another class")
    assert verdicts("radii", subject(attack=PGD(threat=ThreatModel(1, "l2")))) == ["ok"]


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed", "16-true"])
def test_16_bits_in_the_final_check_are_caught(precision):
    trainer = {"precision": precision}
    caught("final precision", subject(trainer=trainer), "warning", precision, "32-true")
    assert verdicts("final precision", subject(trainer=trainer, stage="fit")) == ["skipped"]
    refuses = verdicts("evaluation", subject(trainer=trainer, evaluation=RobustEval()))
    assert refuses == (["error"] if precision == "16-true" else ["ok"])


def test_autocast_around_and_inside_the_network_is_caught():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        caught("final precision", subject(), "warning", "autocast is on")

    class Inside(nn.Conv2d):
        def forward(self, x):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return super().forward(x)

    network = Reads(nn.Sequential(Inside(1, 1, 1), Function(torch.Tensor.float)))
    caught("final precision", subject(network), "warning", "Inside (before.0)")
    caught("final precision", subject(Reads().bfloat16()), "warning", "weights have 16 bits")


def test_tf32_is_caught(monkeypatch):
    assert verdicts("TF32", subject(trainer={"accelerator": "cpu"})) == ["ok"]
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    caught("TF32", subject(trainer={"accelerator": "gpu"}), "warning", "cudnn.allow_tf32")  # torch's own default
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert verdicts("TF32", subject(trainer={"accelerator": "gpu"})) == ["ok"]
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
    caught("TF32", subject(trainer={"accelerator": "cpu"}), "warning", "matmul_precision")


class Leaky(Stripes):
    def __init__(self, test=0, again=0, **options):
        super().__init__(**options)
        self.test, self.again = test, again

    def load(self, train):
        images = super().load(train)
        x, source = images.x.clone(), super().load(True).x
        if train:
            x[: self.again] = x[-self.again :] if self.again else x[:0]
        else:
            x[: self.test] = source[: self.test]
        return Images(x, images.y, images.classes)


def test_sets_that_overlap_are_caught():
    assert verdicts("sets do not overlap", subject()) == ["ok"]
    known = said("sets do not overlap", subject(data=Leaky(test=30, val_split=0.2)))
    assert {each.verdict for each in known} <= {"error", "warning"}
    assert sum(int(each.found.split()[0]) for each in known) == 30
    assert {each.found.split()[-3] for each in known} == {"training", "validation"}
    caught("sets do not overlap", subject(data=Leaky(test=1, val_split=0)), "warning", "1 of 60 test images")
    (found,) = said("sets do not overlap", subject(data=Leaky(again=30, val_split=0.2)))
    assert found.verdict == "error"
    assert "validation images are training images" in found.found


class Adds(PGD):
    """Forgets to project its last step."""

    def search(self, model, x, y, noise):
        return (super().search(model, x, y, noise) + 0.1).clamp(0, 1)


def test_an_attack_that_leaves_its_ball_is_caught_at_radius_0_and_at_its_own():
    caught("radius 0 is clean", subject(attack=Adds(threat=THREAT)), "error", "Adds", "project")
    caught("inside the ball", subject(attack=Adds(threat=THREAT)), "error", "outside L∞ 8/255")
    assert verdicts("radius 0 is clean", subject(attack=GaussianNoise(sigma=0.1))) == ["skipped"]


def test_a_prediction_that_is_another_at_radius_0_is_caught():
    class Flips(nn.Module):
        calls = 0

        def forward(self, z):
            Flips.calls += 1
            return z * (-1) ** Flips.calls

    caught("radius 0 is clean", subject(Reads(after=Flips())), "error", "prediction at radius 0")


def test_a_network_without_a_gradient_is_caught():
    caught("input gradient", subject(Reads(Function(torch.Tensor.detach))), "error", "differentiable")
    caught("input gradient", subject(Reads(Function(lambda x: x.round()))), "warning", "4 of 4 images")
    assert verdicts("input gradient", subject(Reads(Function(torch.round)), attack=Square(threat=THREAT))) == [
        "skipped"
    ]
    through = Through(attack=PGD(threat=THREAT), backward={"before": "identity"})
    assert verdicts("input gradient", subject(Reads(Function(torch.round)), attack=through)) == ["skipped"]


def test_weights_that_guess_are_caught():
    other = Reads(after=Function(lambda z: z.roll(1, 1)))
    caught("accuracy above chance", subject(other, trained=True), "warning", "order of the training")
    assert verdicts("accuracy above chance", subject(other)) == ["skipped"]


def test_a_part_of_the_test_set_is_said():
    caught("whole test set", subject(trainer={"limit_test_batches": 2}), "warning", "limit_test_batches is 2")
    caught("whole test set", subject(evaluation=RobustEval(budget="30s")), "warning", "budget is 30s")
    assert verdicts("whole test set", subject(trainer={"limit_test_batches": 1.0})) == ["ok"]


def test_what_measurements_and_evaluations_refuse_is_a_row():
    caught("measurements", subject(callbacks=[LayerSNR(layers=["nowhere"])]), "error", "nowhere")
    targeted = RobustEval({"t": PGD(threat=THREAT, targeted=True)})
    (found,) = said("evaluation", subject(evaluation=targeted))
    assert found.verdict == "error"
    assert "targeted" in found.found


def test_nothing_is_left_changed():
    network = Reads(nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.1))).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.random.get_rng_state()
    list(diagnose(subject(network)))
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(module.training for module in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_a_check_that_breaks_is_a_warning_of_its_own():
    def broken(about):
        yield ok("so far")
        raise KeyError("no more")

    (found,) = diagnose(subject(), [Check(name="broken", look=broken)])
    assert (found.check, found.verdict) == ("broken", "warning")
    assert "KeyError" in found.found


def test_a_refusal_is_taken_apart_and_put_together_again():
    taken = refused(UserError("found this; do that; or that"))
    assert (taken.found, taken.mend) == ("found this", "do that; or that")
    assert taken.message == "found this; do that; or that"
    assert Diagnosis(check="", verdict="error", found="this").message == "this"


def test_an_error_that_leaves_the_network_fit_to_be_asked_skips_nothing():
    twice = nn.Sequential(Standardize(*STATISTICS), Standardize(*STATISTICS))
    found = list(diagnose(subject(Reads(twice))))
    assert "standardisation" in [each.check for each in found if each.verdict == "error"]
    assert not [each for each in found if each.found.startswith("after the error")]


def test_the_guard_of_another_process_asks_the_regime_alone(capsys):
    model = Natural(Reads(after=nn.Sigmoid()))
    guard(subject(model.network, model=model), rank=1)
    assert capsys.readouterr().err == ""
    guard(subject(model.network, model=model))
    assert capsys.readouterr().err.count("warning: ") == 1
    with pytest.raises(UserError, match="remove the final softmax"):
        guard(subject(model=Natural(Reads(after=nn.Softmax(1)))), rank=1)
