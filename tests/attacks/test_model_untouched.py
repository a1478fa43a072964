"""An attack leaves the model, the images and the mode that it was called in as they were."""

import pytest
import torch
from linear import Noisy, batch, broken, classified, cnn, keys
from torch import nn

from lit_robust.attacks import APGD, BIM, PGD, GaussianNoise, RadialPGD, Restarts, TargetedAPGD, WorstOf
from lit_robust.attacks.base import searching
from lit_robust.threat import ThreatModel

LINF = ThreatModel("8/255")
ATTACK = PGD(threat=LINF, steps=3)
ATTACKS = [
    ATTACK,
    BIM(threat=LINF, steps=2),
    PGD(threat=ThreatModel("0.5", "l2"), steps=3),
    PGD(threat=ThreatModel("2", "l1"), steps=3),
    RadialPGD(threat=ThreatModel("0.5", "l2"), steps=2),
    APGD(threat=LINF, steps=3),
    TargetedAPGD(threat=ThreatModel("0.5", "l2"), steps=2),
    Restarts(attack=ATTACK, n=2),
    WorstOf(attacks=[ATTACK, BIM(threat=LINF)]),
    GaussianNoise(sigma=0.1),
]
each = pytest.mark.parametrize("attack", ATTACKS, ids=str)


class Failing(nn.Module):
    """Fails at its second forward pass."""

    def __init__(self, model):
        super().__init__()
        self.model, self.calls = model, 0

    def forward(self, x):
        self.calls += 1
        if self.calls == 2:
            raise RuntimeError("out of memory")
        return self.model(x)


def partly_frozen():
    model = cnn(norm=True)
    model[0].weight.requires_grad_(False)
    return model


def flags(model):
    return {name: p.requires_grad for name, p in model.named_parameters()}


@each
def test_requires_grad_flags_and_gradients_stay(attack):
    model = partly_frozen()
    before = flags(model)
    assert set(before.values()) == {True, False}
    attack(model, *batch(), key=keys(8))
    assert flags(model) == before
    assert all(p.grad is None for p in model.parameters())


def test_requires_grad_flags_stay_after_an_exception():
    model = Failing(partly_frozen())
    before = flags(model)
    with pytest.raises(RuntimeError, match="out of memory"):
        ATTACK(model, *batch())
    assert flags(model) == before


def test_parameters_are_out_of_the_graph_during_the_search():
    model, seen = partly_frozen(), []
    handle = model.register_forward_pre_hook(lambda module, _: seen.extend(flags(module).values()))
    ATTACK(model, *batch())
    handle.remove()
    assert seen
    assert not any(seen)


@pytest.mark.parametrize("training", [True, False])
@each
def test_train_and_eval_mode_stay_for_each_module(attack, training):
    model = cnn(norm=True).train(training)
    model[2].train(not training)
    before = [module.training for module in model.modules()]
    seen = []
    handle = model.register_forward_pre_hook(lambda module, _: seen.append([m.training for m in module.modules()]))
    attack(model, *batch(), key=keys(8))
    handle.remove()
    assert [module.training for module in model.modules()] == before
    assert all(modes == before for modes in seen)


@each
def test_weights_and_running_statistics_stay_in_eval_mode(attack):
    model = cnn(norm=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attack(model, *batch(), key=keys(8))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


@each
def test_images_and_labels_are_not_written_to(attack):
    x, y = batch()
    before = x.clone(), y.clone()
    attack(cnn(), x, y, key=keys(8))
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])
    assert not x.requires_grad


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode], ids=["no_grad", "inference_mode"])
@pytest.mark.parametrize("attack", [a for a in ATTACKS if a.adversarial], ids=str)
def test_attacks_work_where_gradients_are_off(attack, context):
    model = Noisy(cnn(), 0.01)
    x, y = batch()
    expected = attack(model, x, y, key=keys(8))
    assert not torch.equal(expected, x)
    with context():
        # Images, labels and keys that were made in inference mode cannot enter a graph themselves.
        x_adv = attack(model, x.clone(), y.clone(), key=keys(8))
        assert torch.is_inference_mode_enabled() == (context is torch.inference_mode)
        assert not torch.is_grad_enabled()
    torch.testing.assert_close(x_adv, expected, rtol=0, atol=1e-12)
    assert not x_adv.is_inference()
    assert not x_adv.requires_grad


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode], ids=["no_grad", "inference_mode"])
def test_searching_turns_gradients_on_inside_alone(context):
    model = cnn()
    with context():
        with searching(model):
            assert torch.is_grad_enabled()
            assert not torch.is_inference_mode_enabled()
        assert not torch.is_grad_enabled()


def test_images_that_require_gradients_are_taken_as_they_are():
    x, y = batch()
    expected = ATTACK(cnn(), x, y, key=keys(8))
    x_adv = ATTACK(cnn(), x.clone().requires_grad_(), y, key=keys(8))
    torch.testing.assert_close(x_adv, expected, rtol=0, atol=0)
    assert not x_adv.requires_grad


def test_a_network_in_eval_mode_is_broken_in_eval_mode():
    model = cnn(norm=True)
    x, y = classified(model, 16)
    assert broken(model, ATTACK(model, x, y, key=keys(16)), y).any()
