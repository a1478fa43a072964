"""The networks are the published ones: parameter counts, names, order, and blocks against their definition."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lit_robust.nn import VGG16, CIFARResNet18, CIFARResNet34, PreActResNet18, ResNet32, SmallCNN, WideResNet
from lit_robust.nn.preact_resnet import PreActBlock
from lit_robust.nn.resnet import BasicBlock
from lit_robust.nn.resnet32 import ResidualUnit

CONVS = [0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40]
POOLS = [6, 13, 23, 33, 43]


def leaves(network):
    return [name for name, module in network.named_modules() if not list(module.children())]


@pytest.mark.parametrize(
    ("make", "kwargs", "count"),
    [
        (VGG16, {}, 14_728_266),
        (CIFARResNet18, {}, 11_173_962),
        (CIFARResNet34, {}, 21_282_122),
        (PreActResNet18, {}, 11_172_170),
        (WideResNet, {}, 36_479_194),
        (WideResNet, {"depth": 34}, 46_160_474),
        # 32 (25 + 1), 64 (25 · 32 + 1), 100 (1024 + 1), 10 (100 + 1)
        (SmallCNN, {}, 832 + 51_264 + 102_500 + 1_010),
        (SmallCNN, {"in_channels": 25}, 20_032 + 51_264 + 102_500 + 1_010),
    ],
)
def test_parameter_count(make, kwargs, count):
    with torch.device("meta"):
        network = make(**kwargs)
    assert sum(parameter.numel() for parameter in network.parameters()) == count


def test_parameter_count_of_resnet32():
    # Not on the meta device, where drawing normal numbers imports seconds of torch.
    assert sum(parameter.numel() for parameter in ResNet32().parameters()) == 464_154


def test_resnet18_layers_in_the_order_of_the_cuts():
    expected = ["conv1", "bn1"]
    for stage in (1, 2, 3, 4):
        for block in (0, 1):
            names = ["conv1", "bn1", "conv2", "bn2"]
            names += ["shortcut.0", "shortcut.1"] if stage > 1 and block == 0 else []
            expected += [f"layer{stage}.{block}.{name}" for name in names]
    expected += ["linear"]
    with torch.device("meta"):
        network = CIFARResNet18()
    assert leaves(network) == expected
    assert len(expected) == 41


def test_resnet18_convolution_shapes():
    with torch.device("meta"):
        network = CIFARResNet18()
    convs = {n: m for n, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    strided = {n for n, m in convs.items() if m.stride == (2, 2)}
    assert strided == {f"layer{s}.0.{n}" for s in (2, 3, 4) for n in ("conv1", "shortcut.0")}
    assert all(m.bias is None for m in convs.values())
    assert {n for n, m in convs.items() if m.kernel_size == (1, 1)} == {f"layer{s}.0.shortcut.0" for s in (2, 3, 4)}
    for stage, channels in ((1, 64), (2, 128), (3, 256), (4, 512)):
        assert all(m.out_channels == channels for n, m in convs.items() if n.startswith(f"layer{stage}"))


def test_vgg16_indices_types_and_channels():
    with torch.device("meta"):
        network = VGG16()
    kinds = {i: type(module) for i, module in enumerate(network.features)}
    expected = dict.fromkeys(POOLS, nn.MaxPool2d) | {44: nn.AvgPool2d}
    for i in CONVS:
        expected |= {i: nn.Conv2d, i + 1: nn.BatchNorm2d, i + 2: nn.ReLU}
    assert kinds == expected
    assert leaves(network) == [f"features.{i}" for i in range(45)] + ["classifier"]
    channels = [(network.features[i].in_channels, network.features[i].out_channels) for i in CONVS]
    assert [out for _, out in channels] == [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6
    assert [into for into, _ in channels] == [3] + [64] * 2 + [128] * 2 + [256] * 3 + [512] * 5
    assert all(network.features[i].bias is not None for i in CONVS)


def test_width_multiplies_channels():
    with torch.device("meta"):
        half = VGG16(width=0.5), CIFARResNet18(width=0.5), PreActResNet18(width=0.5), SmallCNN(width=0.5)
    assert half[0].classifier.in_features == half[1].linear.in_features == half[2].linear.in_features == 256
    assert half[1].conv1.out_channels == half[2].conv1.out_channels == 32
    assert (half[3].conv1.out_channels, half[3].conv2.out_channels, half[3].hidden.out_features) == (16, 32, 50)


@pytest.mark.parametrize(("size", "flat"), [(16, 64), (17, 64), (28, 1024), (32, 1600)])
def test_small_cnn_flat_size(size, flat):
    assert SmallCNN(size=size).hidden.in_features == flat


def test_small_cnn_against_its_definition():
    torch.manual_seed(0)
    network = SmallCNN(width=0.25)
    x = h = torch.rand(2, 1, 28, 28)
    for conv in (network.conv1, network.conv2):
        h = F.conv2d(h, conv.weight, conv.bias)
        h = h.unfold(2, 2, 2).unfold(3, 2, 2).amax((-1, -2)).clamp(min=0)
    h = (h.reshape(2, -1) @ network.hidden.weight.T + network.hidden.bias).clamp(min=0)
    torch.testing.assert_close(network(x), h @ network.linear.weight.T + network.linear.bias)


def test_resnet32_structure():
    network, wide = ResNet32(), ResNet32(widen=2, final_norm=False)
    assert [len(group) for group in (network.layer1, network.layer2, network.layer3)] == [5, 5, 5]
    assert [m.conv1.stride for g in (network.layer1, network.layer2, network.layer3) for m in g] == (
        [(1, 1)] * 5 + [(2, 2)] + [(1, 1)] * 4 + [(2, 2)] + [(1, 1)] * 4
    )
    activated = [n for n, m in network.named_modules() if isinstance(m, ResidualUnit) and m.activate_first]
    assert activated == ["layer1.0"]
    assert sum(isinstance(m, nn.Conv2d) for m in network.modules()) == 31  # and one linear layer
    assert network.bn is not None
    assert wide.bn is None
    assert wide.conv1.out_channels == 16
    assert [g[0].conv1.out_channels for g in (wide.layer1, wide.layer2, wide.layer3)] == [32, 64, 128]


def test_resnet32_stem():
    wide = ResNet32(widen=2, stem=32, final_norm=False)
    assert wide.conv1.out_channels == wide.layer1[0].conv1.in_channels == 32
    assert wide(torch.rand(2, 3, 8, 8)).shape == (2, 10)
    assert ResNet32(stem=4)(torch.rand(2, 3, 8, 8)).shape == (2, 10)
    for stem in (0, 17, 15):
        with pytest.raises(ValueError, match=f"expected stem of 1 to 16 channels, less by an even number, got {stem}"):
            ResNet32(stem=stem)


def test_resnet32_initialisation():
    torch.manual_seed(0)
    network = ResNet32()
    conv = network.layer3[1].conv1  # fan in = fan out = 64 * 9: Xavier's standard deviation is sqrt(1 / 576)
    assert conv.weight.std().item() == pytest.approx(1 / 24, rel=0.05)
    assert conv.weight.abs().max() > 3 / 24  # normal, where a uniform ends at sqrt(3) standard deviations
    assert network.conv1.weight.abs().max() <= 1 / 27**0.5  # torch's default: uniform within 1 / sqrt(fan in)


@pytest.mark.parametrize("activate_first", [True, False])
def test_residual_unit_without_its_branch_is_its_shortcut(activate_first):
    torch.manual_seed(0)
    unit = ResidualUnit(4, 4, 1, activate_first=activate_first).eval()
    nn.init.zeros_(unit.conv2.weight)
    unit.bn1.running_mean.fill_(0.3)
    x = torch.randn(2, 4, 5, 5)
    activated = torch.where((h := (x - 0.3) / (1 + 1e-5) ** 0.5) > 0, h, 0.1 * h)
    torch.testing.assert_close(unit(x), activated if activate_first else x)


def test_residual_unit_pads_channels_on_both_sides_and_averages():
    torch.manual_seed(0)
    unit = ResidualUnit(2, 6, 2).eval()
    nn.init.zeros_(unit.conv2.weight)
    x = torch.randn(1, 2, 4, 4)
    out = unit(x)
    assert out.shape == (1, 6, 2, 2)
    assert not out[:, [0, 1, 4, 5]].any()
    torch.testing.assert_close(out[:, 2:4], x.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2)))


def test_residual_unit_branch():
    torch.manual_seed(0)
    unit = ResidualUnit(2, 2, 1).eval()
    unit.bn2.running_mean.fill_(0.2)
    x = torch.randn(1, 2, 4, 4)
    scale = (1 + 1e-5) ** -0.5
    h = F.conv2d(F.leaky_relu(x * scale, 0.1), unit.conv1.weight, padding=1)
    h = F.conv2d(F.leaky_relu((h - 0.2) * scale, 0.1), unit.conv2.weight, padding=1)
    torch.testing.assert_close(unit(x), x + h)


def test_basic_block_against_its_definition():
    torch.manual_seed(0)
    block = BasicBlock(2, 4, 2).eval()
    block.shortcut[1].running_mean.fill_(0.1)
    x = torch.randn(1, 2, 6, 6)
    scale = (1 + 1e-5) ** -0.5
    h = F.relu(F.conv2d(x, block.conv1.weight, stride=2, padding=1) * scale)
    h = F.conv2d(h, block.conv2.weight, padding=1) * scale
    shortcut = (F.conv2d(x, block.shortcut[0].weight, stride=2) - 0.1) * scale
    torch.testing.assert_close(block(x), F.relu(h + shortcut))
    identity = BasicBlock(2, 2, 1).eval()
    nn.init.zeros_(identity.bn2.weight)
    torch.testing.assert_close(identity(x), F.relu(x))
    assert identity.shortcut is None


def test_preact_block_projects_the_activated_input_and_keeps_the_raw_one():
    torch.manual_seed(0)
    x = torch.randn(1, 2, 6, 6)
    scale = (1 + 1e-5) ** -0.5
    block = PreActBlock(2, 4, 2).eval()
    active = F.relu(x * scale)
    h = F.relu(F.conv2d(active, block.conv1.weight, stride=2, padding=1) * scale)
    expected = F.conv2d(h, block.conv2.weight, padding=1) + F.conv2d(active, block.shortcut.weight, stride=2)
    torch.testing.assert_close(block(x), expected)
    identity = PreActBlock(2, 2, 1).eval()
    nn.init.zeros_(identity.conv2.weight)
    torch.testing.assert_close(identity(x), x)


def test_wide_resnet_structure():
    with torch.device("meta"):
        network = WideResNet()
        narrow = WideResNet(widen_factor=1)
    groups = (network.layer1, network.layer2, network.layer3)
    assert [len(group) for group in groups] == [4, 4, 4]
    assert [group[0].conv1.stride for group in groups] == [(1, 1), (2, 2), (2, 2)]
    assert [group[0].conv2.out_channels for group in groups] == [160, 320, 640]
    assert [group[0].shortcut is not None for group in groups] == [True, True, True]
    assert narrow.layer1[0].shortcut is None
    assert not any(isinstance(m, nn.Dropout) for m in network.modules())
