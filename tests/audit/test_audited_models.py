"""Audits of tiny networks: masked ones fail by the check that is meant for it, honest ones do not."""

import json

import numpy as np
import pytest
import torch
from audited_digits import (
    SMALL,
    RandomWiggle,
    Rounded,
    TimesLogits,
    audited,
    block,
    digits,
    noisy,
    trained,
    verdicts,
)

from lit_robust.attacks import PGD, Restarts
from lit_robust.audit import Credibility, Effort
from lit_robust.audit.gradient import loss_gradient
from lit_robust.audit.plan import Plan
from lit_robust.audit.repeated import SingleRestart
from lit_robust.audit.substitute import train_substitute
from lit_robust.backward import SurrogateLayer, replace_gradient
from lit_robust.errors import UserError
from lit_robust.losses import cross_entropy
from lit_robust.nn import Pipeline
from lit_robust.threat import ThreatModel

RANDOM = {"queries": 50, "auto_steps": 3, "steps": 10, "points": 2}


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    return audited(tmp_path_factory.mktemp("honest"), trained())


def test_a_naturally_trained_network_passes(honest):
    content, columns = honest
    assert content["verdict"] == "pass", verdicts(content)
    assert len(columns["index"]) == 60
    assert json.loads(json.dumps(content)) == json.loads(json.dumps(content))


@pytest.mark.parametrize(("kind", "attacked"), [("mlp", False), ("cnn", True), ("mlp", True)])
def test_honest_networks_do_not_fail(tmp_path, kind, attacked):
    content, _ = audited(tmp_path, trained(kind, attacked=attacked))
    assert content["verdict"] in ("pass", "warn"), verdicts(content)


def test_an_honest_random_network_does_not_fail(tmp_path):
    content, _ = audited(tmp_path, noisy(0.1, trained("mlp")), effort=RANDOM)
    assert content["random_network"]
    assert content["verdict"] in ("pass", "warn"), verdicts(content)
    assert verdicts(content)["EOT draws"] in ("pass", "warn")


def test_saturated_logits_fail_by_their_gradients(tmp_path, honest):
    content, columns = audited(tmp_path, TimesLogits(trained(), 1e3))
    assert verdicts(content)["gradients"] == "fail"
    assert verdicts(content)["unbounded attack"] == "fail"
    assert np.array_equal(columns["right square"], honest[1]["right square"])  # the same model for who sees no gradient


def test_a_quantiser_without_a_gradient_fails_by_the_black_box(tmp_path):
    content, columns = audited(tmp_path, Pipeline([Rounded(16), trained()]).eval())
    assert verdicts(content)["black box"] == "fail"
    assert columns["zero gradient"].all()


def test_a_random_layer_under_few_draws_fails_by_them(tmp_path):
    network = Pipeline([RandomWiggle(0.05, 6.0), trained("mlp")]).eval()
    content, _ = audited(tmp_path, network, eps=0.1, effort={**RANDOM, "draws": 4})
    assert verdicts(content)["EOT draws"] == "fail"


def test_figures_do_not_depend_on_blocks_of_several_processes(tmp_path):
    options = {"effort": {**RANDOM, "substitute_images": 100}, "images": 40, "size": 20}
    one, _ = audited(tmp_path, trained("mlp"), **options)
    data, audit = digits(20), Credibility(eps=0.05, effort=Effort(**{**SMALL, **options["effort"]}))
    audit.prepare(block(trained("mlp"), data), data)
    parts = [audit.measure(block(trained("mlp"), data, start)) for start in (20, 0)]
    joined = {name: np.concatenate([np.asarray(part[name]) for part in parts[::-1]]) for name in parts[0]}
    assert verdicts(audit.summarise(joined)) == verdicts(one)
    assert audit.summarise(joined)["rows"] == one["rows"]


class Levels(SurrogateLayer):
    offered = ("exact", "identity")

    def forward(self, x):
        hard = (15 * x).round() / 15
        return hard if self.kind == "exact" else replace_gradient(hard, x)


@pytest.mark.parametrize(("way", "verdict"), [("exact", "fail"), ("identity", "pass")])
def test_backward_passes_are_chosen_and_compared(tmp_path, way, verdict):
    network = Pipeline([Levels(), trained("mlp")]).eval()
    content, _ = audited(tmp_path, network, effort={**RANDOM, "queries": 2}, backward={"stages.0": way})
    assert verdicts(content)["surrogate grid"] == verdicts(content)["gradients"] == verdict


def test_a_model_that_guesses_is_refused_before_any_work():
    torch.manual_seed(0)
    network, data = TimesLogits(trained(), 0.0), digits()
    audit = Credibility(eps=0.05)
    with pytest.raises(UserError, match="no better than chance with 10 classes"):
        audit.prepare(block(network, data), data)
    assert audit.plan is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs the radius"),
        ({"eps": 0}, "above 0"),
        ({"eps": 1, "norm": "l0"}, "linf, l2, l1"),
        ({"eps": 8}, "8/255"),
        ({"eps": "0.1", "images": 0}, "at least 1"),
    ],
)
def test_mistakes_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Credibility(**options)


def test_effort_that_is_none_is_refused():
    with pytest.raises(UserError, match="at least 1"):
        Effort(steps=0)
    with pytest.raises(UserError, match="2 restarts"):
        Effort(restarts=1)


def test_single_restarts_are_those_of_restarts():
    network, given = trained("mlp"), block(trained("mlp"), digits())
    attack = PGD(threat=ThreatModel("0.1"), steps=2)
    each = [SingleRestart(attack=attack, restart=k).search(network, given.x, given.y, given.noise) for k in range(3)]
    assert torch.equal(each[0], attack.search(network, given.x, given.y, given.noise))
    assert not torch.equal(each[0], each[1])
    margins = [-cross_entropy(network(x), given.y) for x in each]
    whole = Restarts(attack=attack, n=3).search(network, given.x, given.y, given.noise)
    assert all(any(torch.equal(row, x[i]) for x in each) for i, row in enumerate(whole))
    assert len(margins) == 3


def test_the_largest_ball_holds_every_image():
    for norm in ("linf", "l2", "l1"):
        plan = Plan(threat=ThreatModel("0.5", norm), shape=(1, 3, 5))
        assert plan.largest.contains(torch.ones(1, 1, 3, 5), torch.zeros(1, 1, 3, 5)).all()
        assert plan.ball(1) == plan.threat
        assert plan.ball(1000) == plan.largest


def test_the_gradient_is_that_of_the_cross_entropy():
    given = block(trained("mlp"), digits())
    plan = Plan(threat=ThreatModel("0.1"), shape=(1, 16, 16))
    x = given.x.clone().requires_grad_()
    (own,) = torch.autograd.grad(cross_entropy(given.network(x), given.y).sum(), x)
    assert torch.equal(loss_gradient(given, plan, given.x), own)
    assert all(p.requires_grad for p in given.network.parameters())


def test_a_substitute_learns_what_the_model_says_and_nothing_else_changes():
    network, data = trained("mlp"), digits()
    images, like = data.images(train=True).x, torch.zeros(1)
    before = torch.get_rng_state()
    one, two = (train_substitute(network, images, 10, like=like, count=600) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    test = data.images(train=False).x.float() / 255
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert (one(test).argmax(1) == network(test).argmax(1)).float().mean() > 0.7
