"""EfficientNet-B0: the published counts and settings, and torchvision's own network."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from lit_robust import sampling
from lit_robust.errors import UserError
from lit_robust.nn.efficientnet_b0 import EfficientNetB0


def narrow(**options):
    torch.manual_seed(0)
    return EfficientNetB0(**{"width": 0.25, **options})


def settled(network, x):
    """Its running statistics those of `x`, so that a signal survives its depth."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        network.train()(x)
    return network.eval()


def test_parameter_count():
    with torch.device("meta"):
        network = EfficientNetB0()
    assert sum(parameter.numel() for parameter in network.parameters()) == 4_020_358


def test_layers_are_torchvisions_with_other_normalisation_and_nothing_in_place():
    with torch.device("meta"):
        ours, theirs = EfficientNetB0(), torchvision.models.efficientnet_b0(num_classes=10)
    shapes = [[tuple(p.shape) for p in network.parameters()] for network in (ours, theirs)]
    assert shapes[0] == shapes[1]
    norms = [m for m in ours.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 49
    assert {(m.eps, m.momentum) for m in norms} == {(1e-3, 0.01)}
    depths = [[m.p for n, m in network.named_modules() if n.endswith("stochastic_depth")] for network in (ours, theirs)]
    assert depths[0] == depths[1] == pytest.approx([0.2 * i / 16 for i in range(16)])
    assert ours.dropout.p == 0.2
    assert not any(getattr(module, "inplace", False) for module in ours.modules())


def test_in_eval_mode_it_computes_what_torchvisions_does():
    x = torch.rand(4, 3, 32, 32)
    ours, theirs = settled(narrow(width=1.0, num_classes=7), x), torchvision.models.efficientnet_b0(num_classes=7)
    theirs.load_state_dict(
        dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True))
    )  # same layers in the same order
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3
    with torch.no_grad():
        logits = ours(x)
        torch.testing.assert_close(logits, theirs.eval()(x), atol=1e-5, rtol=1e-4)
    assert logits.std(0).min() > 0.01, "the images matter"


def test_initialisation_is_torchs_default():
    network = narrow(width=1.0)
    stem, linear = network.features[0][0], network.linear
    assert stem.weight.abs().max() <= 27**-0.5  # torch's default: uniform within 1 / sqrt(fan in)
    assert stem.weight.std().item() == pytest.approx((27 * 3) ** -0.5, rel=0.05)
    assert linear.bias.abs().max() > 0
    assert linear.weight.std().item() == pytest.approx((1280 * 3) ** -0.5, rel=0.05)


@pytest.mark.parametrize(("channels", "classes", "side"), [(1, 4, 32), (3, 10, 33), (25, 2, 40)])
def test_it_follows_the_data(channels, classes, side):
    network = narrow(in_channels=channels, num_classes=classes).eval()
    x = torch.rand(2, channels, side, side)
    assert network(x).shape == (2, classes)
    F.cross_entropy(network.train()(x), torch.tensor([0, 1])).backward()
    assert network.features[0][0].weight.grad.abs().max() > 0


def test_stochastic_depth_and_dropout_belong_to_the_samples():
    x, key = torch.rand(6, 3, 32, 32), torch.arange(6)
    network = settled(narrow(dropout=0.5, stochastic_depth=0.5), x).train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # so that samples do not see each other

    def logits(rows):
        with sampling.keyed(key[rows]), torch.no_grad():
            return network(x[rows])

    whole, turned = logits(torch.arange(6)), torch.tensor([4, 2, 0])
    torch.testing.assert_close(logits(turned), whole[turned], atol=1e-5, rtol=1e-4)
    with sampling.keyed(key + 100), torch.no_grad():
        assert not torch.allclose(network(x), whole, atol=1e-3)


def test_what_is_dropped_and_what_stays():
    drop = narrow(dropout=0.25).dropout.train()
    with sampling.keyed(torch.arange(4)):
        features = drop(torch.ones(4, 5000))
    assert features.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert float((features == 0).float().mean()) == pytest.approx(0.25, abs=0.02)
    with sampling.keyed(torch.arange(2000)):
        samples = drop(torch.ones(2000, 2, 2, 2))
    assert torch.equal(samples, samples[:, :1, :1, :1].expand_as(samples)), "a sample as a whole"
    assert float((samples[:, 0, 0, 0] == 0).float().mean()) == pytest.approx(0.25, abs=0.05)
    x = torch.rand(2, 3)
    kept = drop.eval()(x)
    assert torch.equal(kept, x)
    assert kept.data_ptr() != x.data_ptr()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": 1.0}, r"dropout to be at least 0 and below 1, got 1.0"),
        ({"stochastic_depth": -0.1}, r"stochastic_depth to be at least 0 and below 1, got -0.1"),
        ({"width": 0}, "width to be above 0, got 0"),
    ],
)
def test_numbers_out_of_range_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        EfficientNetB0(**options)
