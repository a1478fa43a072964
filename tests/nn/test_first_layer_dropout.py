"""A random first layer without a dictionary."""

import pytest
import torch
from torch import nn

from lit_robust import sampling
from lit_robust.errors import UserError
from lit_robust.nn import Pipeline, ResNet32
from lit_robust.nn.first_layer_dropout import FirstLayerDropout


def test_most_outputs_are_dropped_in_evaluation_too_and_the_rest_is_the_convolution():
    torch.manual_seed(0)
    layer = FirstLayerDropout().eval()
    x = torch.rand(4, 3, 16, 16)
    with sampling.keyed(torch.arange(4)):
        out = layer(x)
    assert out.shape == (4, 50, 16, 16)
    kept = out != 0
    assert float(kept.float().mean()) == pytest.approx(0.05, abs=0.005)
    assert torch.equal(out[kept], layer.conv(x)[kept])


def test_it_trains_with_a_classifier_behind_it():
    torch.manual_seed(0)
    network = Pipeline([FirstLayerDropout(filters=6, p=0.5, in_channels=1), ResNet32(in_channels=6)])
    network(torch.rand(2, 1, 8, 8)).square().sum().backward()
    assert network.stages[0].conv.weight.grad.abs().max() > 0
    assert isinstance(network.stages[0].conv, nn.Conv2d)
    assert network.stages[0].conv.bias is None


@pytest.mark.parametrize(
    ("options", "message"),
    [({"filters": 0}, "got 0 and 3"), ({"in_channels": 0}, "got 50 and 0"), ({"p": 1.0}, "got 1.0")],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        FirstLayerDropout(**options)
