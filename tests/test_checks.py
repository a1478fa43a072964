"""What a network must be, tried before any work."""

import pytest
import torch
from torch import nn

from lit_robust.checks import check_classifier
from lit_robust.errors import UserError
from lit_robust.nn import SmallCNN


def linear(outputs=10, *more):
    return nn.Sequential(nn.Flatten(), nn.Linear(256, outputs), *more)


def check(network, shape=(1, 16, 16), classes=10):
    check_classifier(network, shape, classes)


class Probabilities(nn.Module):
    def forward(self, x):
        return torch.full((len(x), 10), 0.1)


@pytest.mark.parametrize(
    "network",
    [SmallCNN(size=16, width=0.25), linear(), linear().double(), linear(10, nn.LogSoftmax(1)), linear(10, nn.ReLU())],
    ids=["SmallCNN", "linear", "double", "log-probabilities", "non-negative logits"],
)
def test_a_classifier_passes(network):
    check(network)


@pytest.mark.parametrize("network", [linear(10, nn.Softmax(1)), Probabilities()], ids=["softmax", "constant"])
def test_probabilities_are_refused(network):
    with pytest.raises(UserError, match=r"returns probabilities, where logits are expected.*remove the final softmax"):
        check(network)


def test_logits_that_happen_to_sum_to_1_pass():
    class Centred(nn.Module):
        def forward(self, x):
            z = x.flatten(1)[:, :10]
            return 5 * (z - z.mean(1, keepdim=True)) + 0.1

    check(Centred())


@pytest.mark.parametrize("outputs", [9, 11])
def test_another_number_of_classes_is_refused(outputs):
    with pytest.raises(UserError, match=rf"return 10 logits.*got shape \(4, {outputs}\) for 4.*set num_classes: 10"):
        check(linear(outputs))


def test_other_channels_and_sizes_are_refused_with_the_network_s_own_words():
    with pytest.raises(
        UserError, match=r"SmallCNN does not take the data's 3x16x16 images.*expected 1 channels, got 3"
    ):
        check(SmallCNN(size=16), (3, 16, 16))
    with pytest.raises(UserError, match="SmallCNN does not take the data's 1x28x28 images"):
        check(SmallCNN(size=16), (1, 28, 28))
    with pytest.raises(UserError, match=r"Sequential does not take the data's 1x28x28 images.*mat1 and mat2"):
        check(linear(), (1, 28, 28))


@pytest.mark.parametrize("answer", [(1, 2), {"logits": 1}, None], ids=["tuple", "dict", "None"])
def test_something_other_than_a_tensor_is_refused(answer):
    class Other(nn.Module):
        def forward(self, x):
            return answer

    with pytest.raises(UserError, match=f"Other to return a tensor of logits, got {type(answer).__name__}"):
        check(Other())


@pytest.mark.parametrize("shape", [(40,), (10, 4), (4, 10, 1)])
def test_a_tensor_of_another_shape_is_refused(shape):
    class Other(nn.Module):
        def forward(self, x):
            return torch.zeros(shape)

    with pytest.raises(UserError, match="got shape"):
        check(Other())


def test_mode_and_statistics_stay_as_they_are():
    network = nn.Sequential(nn.BatchNorm2d(1), linear(), nn.Dropout(0.5)).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    check(network)
    assert all(m.training for m in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())
