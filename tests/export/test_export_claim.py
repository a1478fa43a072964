"""The claim: which test it takes, what it says of AutoAttack and the audit, and the rules of entry as measured."""

import json
import os

import pytest
import torch
from exported import Dull, Noisy, Purifies, Tied, finished, run_of, share
from torch import nn

from lit_robust.attacks import AutoAttack
from lit_robust.evaluation.protocol import describe
from lit_robust.export.claim import CLAIM, additional_data, architecture, claim
from lit_robust.export.command import main
from lit_robust.export.entry_rules import entry_rules
from lit_robust.export.measured import measured
from lit_robust.export.subject import load
from lit_robust.nn import LevelQuantizer
from lit_robust.threat import ThreatModel

CNN = {"class_path": "lit_robust.nn.SmallCNN", "init_args": {"size": 16, "width": 0.25, "in_channels": 1}}
PGD = {"class": "PGD", "threat": {"class": "ThreatModel", "eps": "8/255", "norm": "linf"}, "steps": 20}
RESTARTS = {"class": "Restarts", "attack": {**PGD, "threat": {**PGD["threat"], "norm": "l2", "eps": "0.5"}}, "n": 5}
AUTO = {
    f"aa/{m}": json.loads(json.dumps(describe(a))) for m, a in AutoAttack(threat=ThreatModel("8/255")).members.items()
}


@pytest.fixture
def run(tmp_path):
    return tmp_path / "name" / "3", run_of(tmp_path / "name" / "3", CNN)


def claimed(folder, rules=None):
    subject = load(folder, None)
    broken = {name: {"broken": False} for name in ("deterministic", "non_zero_gradients", "no_inner_optimisation")}
    return claim(subject, {**broken, **(rules or {})}, measured(folder, subject.stored))


def older(folder, seconds):
    for path in folder.iterdir():
        os.utime(path, (path.stat().st_mtime - seconds,) * 2)


def test_a_run_without_tests_claims_nothing(run):
    folder, network = run
    found = claimed(folder)
    assert found["robust_accuracy"] is found["clean_acc"] is found["autoattack_acc"] is found["audit"] is None
    assert found["name"] == "name"
    assert found["dataset"] == "Digits"
    assert found["additional_data"] is False
    assert found["link"] == found["venue"] == found["authors"] == ""
    assert found["number_of_parameters"] == sum(p.numel() for p in network.parameters())
    assert found["training"] == "Natural"
    assert any("nothing is claimed of robustness" in note for note in found["notes"])
    assert any("not audited" in note for note in found["notes"])


def test_the_newest_test_of_these_weights_counts_and_what_ran_is_said(run):
    folder, network = run
    linf = {"L∞ 8/255": (["fgsm", "pgd"], 90)}
    older(finished(folder, "a-1", network, {"fgsm": (PGD, 120), "pgd": (PGD, 95)}, {"L∞ 8/255": (["fgsm"], 120)}), 50)
    finished(folder, "b-1", network, {"fgsm": (PGD, 120), "pgd": (PGD, 95)}, linf, clean=170)
    finished(folder, "other-1", Tied(), {"pgd": (PGD, 1)}, {"L∞ 8/255": (["pgd"], 1)})
    found = claimed(folder)
    robust = found["robust_accuracy"]
    assert (found["Lp"], found["eps"], found["clean_acc"]) == ("Linf", "8/255", "85.00")
    assert (robust["test"], robust["accuracy"], robust["n"], robust["bound"]) == ("b-1", 0.45, 200, "at most")
    assert robust["interval_95"] == [0.1, 0.9]
    assert robust["protocol"] == "not AutoAttack: the worst case of fgsm, pgd"
    assert robust["attacks"]["pgd"]["steps"] == 20
    assert found["autoattack_acc"] is None
    assert any("AutoAttack was not run" in note for note in found["notes"])
    assert any("200 images" in note for note in found["notes"])
    assert any(note.endswith("left out: other-1") for note in found["notes"])


def test_other_threat_models_stand_beside_it(run):
    folder, network = run
    attacks = {"pgd": (PGD, 90), "l2": (RESTARTS, 80), "unbounded": ({"class": "FMN"}, 0)}
    finished(folder, "a-1", network, attacks, {"L∞ 8/255": (["pgd"], 90), "L2 0.5": (["l2"], 80)})
    found = claimed(folder)
    assert found["Lp"] == "Linf"
    assert [(each["Lp"], each["eps"], each["accuracy"]) for each in found["other_threat_models"]] == [
        ("L2", "0.5", 0.4)
    ]


def test_autoattack_counts_first_and_only_whole(run):
    folder, network = run
    rows = {name: (attack, 70 - 5 * i) for i, (name, attack) in enumerate(AUTO.items())}
    older(finished(folder, "aa-1", network, {**rows, "pgd": (PGD, 60)}, {"L∞ 8/255": ([*rows, "pgd"], 50)}), 50)
    finished(folder, "pgd-1", network, {"pgd": (PGD, 90)}, {"L∞ 8/255": (["pgd"], 90)})
    found = claimed(folder)
    assert found["autoattack_acc"] == "27.50"  # what its last member left: 70 − 15 of 200
    assert found["robust_accuracy"]["accuracy"] == 0.25
    assert found["robust_accuracy"]["protocol"].endswith("AutoAttack standard among them")
    assert not any("AutoAttack was not run" in note for note in found["notes"])
    shorter = {**AUTO, "aa/square": {**AUTO["aa/square"], "queries": 10}}
    for name, attacks in (("short-1", shorter), ("part-1", dict(list(AUTO.items())[1:]))):
        (folder / "tests" / "aa-1" / "results.json").unlink(missing_ok=True)
        finished(folder, name, network, {n: (a, 70) for n, a in attacks.items()}, {"L∞ 8/255": (list(attacks), 70)})
        assert claimed(folder)["autoattack_acc"] is None


def test_the_audit_stands_beside_the_number(run):
    folder, network = run
    findings = [{"check": "gradients", "verdict": "fail"}, {"check": "noise", "verdict": "pass"}]
    audit = {"verdict": "fail", "findings": findings}
    older(finished(folder, "audit-1", network, {}, {}, file="audit.json", **audit), 50)
    assert claimed(folder)["audit"] == {"verdict": "fail", "fail": ["gradients"], "warn": [], "test": "audit-1"}
    assert "the audit says FAIL: gradients" in claimed(folder)["notes"]
    finished(folder, "audit-2", Tied(), {}, {}, file="audit.json", **{**audit, "verdict": "pass"})  # of other weights
    assert claimed(folder)["audit"]["test"] == "audit-1"
    finished(folder, "audit-3", network, {}, {}, file="audit.json", verdict="pass", findings=[])
    assert claimed(folder)["audit"] == {"verdict": "pass", "fail": [], "warn": [], "test": "audit-3"}


def test_the_command_prints_what_it_claims(run, capsys):
    folder, network = run
    finished(folder, "a-1", network, {"pgd": (PGD, 90)}, {"L∞ 8/255": (["pgd"], 90)})
    finished(folder, "audit-1", network, {}, {}, file="audit.json", verdict="fail", findings=[])
    (folder / "tests" / "broken-1").mkdir()
    (folder / "tests" / "broken-1" / "results.json").write_text("{")
    assert main(["--run", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "at most 45.0% of 200 (10.0% to 90.0%) in Linf 8/255, not AutoAttack: the worst case of pgd" in out
    assert "audit: FAIL" in out
    assert "rules of entry broken: none" in out
    assert "left out: broken-1" in out
    assert json.loads((folder / "export" / CLAIM).read_text())["breaks"] == []


def test_architecture_and_foreign_weights():
    pipeline = {
        "class_path": "a.Pipeline",
        "init_args": {"stages": [CNN, {"class_path": "b.Front", "init_args": None}]},
    }
    assert architecture(pipeline) == "Pipeline(SmallCNN, Front)"
    pretrained = {"class_path": "torchvision.models.resnet18", "init_args": {"weights": "DEFAULT"}}
    from_file = {"class_path": "lit_robust.nn.FromFile", "init_args": {"network": CNN, "file": "x.pt"}}
    assert additional_data(pipeline) is False
    assert additional_data({"class_path": "Pipeline", "init_args": {"stages": [CNN, pretrained]}}) is True
    assert additional_data(from_file) is None
    assert share(1)["n"] == 200


# --- the rules of entry ---


def broken(network, n=20):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    x = torch.rand(n, 1, 16, 16, generator=torch.Generator().manual_seed(3))
    rules = entry_rules(network.eval(), x)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.requires_grad for p in network.parameters())
    return [name for name, rule in rules.items() if rule["broken"]], rules


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Tied, []),
        (Noisy, ["deterministic"]),
        (Dull, ["non_zero_gradients"]),
        (Purifies, ["no_inner_optimisation"]),
    ],
)
def test_each_rule_is_broken_by_the_network_that_is_made_for_it(kind, expected):
    torch.manual_seed(1)
    assert broken(kind())[0] == expected


def test_what_was_measured():
    torch.manual_seed(1)
    assert broken(Noisy())[1]["deterministic"]["share_with_other_logits"] == 1
    assert broken(Dull())[1]["non_zero_gradients"]["share_zero"] == 1
    assert broken(Purifies())[1]["no_inner_optimisation"]["autograd_calls"] == 1
    assert broken(Tied())[1]["non_zero_gradients"]["images"] == 20


def test_saturated_logits_have_a_gradient_though_the_cross_entropy_has_none():
    class Loud(Tied):
        def forward(self, x):
            return 1e6 * super().forward(x)

    torch.manual_seed(1)
    names, rules = broken(Loud())
    assert names == []
    assert rules["non_zero_gradients"]["share_zero_cross_entropy"] > 0.5


def test_a_layer_that_replaces_its_backward_pass_is_measured_with_its_own_derivative():
    torch.manual_seed(1)
    network = nn.Sequential(LevelQuantizer(0.5), Tied())
    names, rules = broken(network)
    assert names == ["non_zero_gradients"]
    assert rules["non_zero_gradients"]["share_zero_with_own_backward_passes"] == 0
    assert rules["non_zero_gradients"]["replaced_backward_passes"] == {"0": "identity"}
    assert network[0].backward_pass == "identity"


def test_few_zero_gradients_break_nothing():
    class Some(Tied):
        def forward(self, x):
            dark = x.flatten(1).mean(1) < self.limit
            return super().forward(torch.where(dark[:, None, None, None], x.detach(), x))

    torch.manual_seed(1)
    network = Some()
    means = torch.rand(20, 1, 16, 16, generator=torch.Generator().manual_seed(3)).flatten(1).mean(1).sort().values
    for count, expected in ((1, []), (2, ["non_zero_gradients"])):
        network.limit = float(means[count - 1] + means[count]) / 2
        assert broken(network)[0] == expected
