"""Standardisation, pipelines, additive noise: against their formulas."""

from fractions import Fraction

import pytest
import torch
from torch import nn

from lit_robust import sampling
from lit_robust.nn import AdditiveNoise, Pipeline, SmallCNN, Standardize

torch.set_num_threads(1)
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)


def test_standardize_is_the_formula():
    x = torch.rand(2, 3, 4, 5)
    out = Standardize(MEAN, STD)(x)
    for c in range(3):
        torch.testing.assert_close(out[:, c], (x[:, c] - MEAN[c]) / STD[c])


def test_standardize_gradient_is_one_over_std():
    x = torch.rand(1, 3, 2, 2, requires_grad=True)
    Standardize(MEAN, STD)(x).sum().backward()
    torch.testing.assert_close(x.grad, (1 / torch.tensor(STD)).view(1, 3, 1, 1).expand_as(x))


def test_standardize_trains_nothing_and_is_saved():
    layer = Standardize(MEAN, STD)
    assert list(layer.parameters()) == []
    assert {name: tuple(buffer.shape) for name, buffer in layer.state_dict().items()} == {
        "mean": (1, 3, 1, 1),
        "std": (1, 3, 1, 1),
    }
    assert layer.double()(torch.rand(1, 3, 1, 1, dtype=torch.float64)).dtype == torch.float64
    assert "0.4914" in repr(layer)
    assert "channels=3" in repr(layer.to("meta"))


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ([0.5], [0.5, 0.5], "got 1 and 2 values"),
        ([], [], "got 0 and 0 values"),
        ([0.5], [0.0], "above 0"),
        ([0.5, 0.5], [0.5, -0.1], "above 0"),
        ([0.5], [float("nan")], "above 0"),
    ],
)
def test_standardize_refuses(mean, std, message):
    with pytest.raises(ValueError, match=message):
        Standardize(mean, std)


@pytest.mark.parametrize("shape", [(2, 1, 4, 4), (3, 4, 4), (4, 3, 4)])
def test_standardize_refuses_other_channels(shape):
    with pytest.raises(ValueError, match="3 channels and expected images"):
        Standardize(MEAN, STD)(torch.rand(shape))


def test_pipeline_runs_its_stages_in_order():
    double, add = nn.Linear(1, 1, bias=False), nn.Linear(1, 1)
    with torch.no_grad():
        double.weight.fill_(2.0)
        add.weight.fill_(1.0)
        add.bias.fill_(3.0)
    assert Pipeline([double, add])(torch.ones(1, 1)).item() == 5.0
    assert Pipeline([add, double])(torch.ones(1, 1)).item() == 8.0
    assert [name for name, _ in Pipeline([double, add]).named_parameters()] == [
        "stages.0.weight",
        "stages.1.weight",
        "stages.1.bias",
    ]
    with pytest.raises(ValueError, match="at least one stage"):
        Pipeline([])


def test_pipeline_of_standardisation_and_network_is_the_network_with_statistics():
    torch.manual_seed(0)
    inside = SmallCNN(size=16, width=0.25, mean=[0.3], std=[0.2])
    torch.manual_seed(0)
    outside = Pipeline([Standardize([0.3], [0.2]), SmallCNN(size=16, width=0.25)])
    x = torch.rand(2, 1, 16, 16)
    assert torch.equal(inside(x), outside(x))


@pytest.mark.parametrize("training", [True, False])
def test_additive_noise_is_standard_normal_in_both_modes(training):
    torch.manual_seed(0)
    layer = AdditiveNoise(0.1).train(training)
    x = torch.full((4, 3, 32, 32), 0.5)
    noise = (layer(x) - x) / 0.1
    assert abs(noise.mean().item()) < 5 / noise.numel() ** 0.5
    assert noise.std().item() == pytest.approx(1.0, abs=5 / noise.numel() ** 0.5)
    assert not torch.equal(layer(x), layer(x))


def test_additive_noise_belongs_to_the_sample():
    layer = AdditiveNoise("51/255")
    x, key = torch.rand(4, 1, 5, 5), sampling.keys(torch.arange(4))
    with sampling.keyed(key):
        together = layer(x)
    with sampling.keyed(key[2:3]):
        alone = layer(x[2:3])
    assert torch.equal(together[2:3], alone)
    normal = sampling.Noise(key).normal("layer 0", (1, 5, 5))
    torch.testing.assert_close(together, x + 0.2 * normal)


def test_additive_noise_clamps_on_request():
    torch.manual_seed(0)
    x = torch.rand(2, 1, 8, 8)
    raw, cut = AdditiveNoise(1.0), AdditiveNoise(1.0, clamp=True)
    key = sampling.keys(torch.arange(2))
    with sampling.keyed(key):
        free = raw(x)
    with sampling.keyed(key):
        bounded = cut(x)
    assert free.min() < 0
    assert free.max() > 1
    assert torch.equal(bounded, free.clamp(0, 1))


def test_additive_noise_sigma():
    assert AdditiveNoise("8/255").sigma == AdditiveNoise(Fraction(8, 255)).sigma == 8 / 255
    x = torch.rand(1, 1, 2, 2)
    assert torch.equal(AdditiveNoise(0.0)(x), x)
    for wrong in (-0.1, "-8/255", "much"):
        with pytest.raises(ValueError, match="sigma"):
            AdditiveNoise(wrong)
    assert "sigma=0.25" in repr(AdditiveNoise(0.25))
