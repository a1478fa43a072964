"""The order of appendix A, and the cutoffs of the dissertation in it."""

import pytest
import torch
from torch import nn

from lit_robust.errors import UserError
from lit_robust.layer_order import layer_order, named_layer, position
from lit_robust.nn import VGG16, CIFARResNet18, CIFARResNet34, Pipeline, PreActResNet18, Standardize, WithHaHBlocks
from lit_robust.nn.small_vgg import SmallVGG

MAIN = ["conv1", "bn1", "conv2", "bn2"]
SHORTCUT = ["shortcut.0", "shortcut.1"]
RESNET18 = [
    "conv1",
    "bn1",
    *(f"layer1.{block}.{name}" for block in (0, 1) for name in MAIN),
    *(
        f"layer{stage}.{block}.{name}"
        for stage in (2, 3, 4)
        for block in (0, 1)
        for name in [*MAIN, *([] if block else SHORTCUT)]
    ),
    "linear",
]
VGG_CONVS = [0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40]
VGG_CUTOFFS = [1, 2, 4, 5, 8, 9, 11, 12, 15, 16, 18, 19, 21, 22, 25, 26, 28, 29, 31, 32, 35, 36, 38, 39, 41]


def resnet():
    return CIFARResNet18(width=1 / 16, mean=[0.5] * 3, std=[0.25] * 3)


def test_the_order_of_resnet18():
    network = resnet()
    assert len(RESNET18) == 41
    assert RESNET18[14:16] == ["layer2.0.shortcut.0", "layer2.0.shortcut.1"]
    assert layer_order(network) == RESNET18
    assert [position(network, name) for name in RESNET18[1:]] == list(range(1, 41)), "40 cutoffs"
    assert [position(network, n) for n in range(1, 41)] == list(range(1, 41))
    assert position(network, "layer2.1.bn1") == 17


def test_the_order_of_vgg16_and_its_published_cutoffs():
    network = VGG16(width=1 / 16)
    assert layer_order(network) == [f"features.{i + j}" for i in VGG_CONVS for j in (0, 1)] + ["classifier"]
    cutoffs = [*(f"features.{i}" for i in VGG_CUTOFFS), "classifier"]
    assert len(cutoffs) == 26
    # Every other one is a ReLU, so it lies behind the batch normalisation before it.
    assert [position(network, cutoff) for cutoff in cutoffs] == list(range(1, 27))


@pytest.mark.parametrize(("network", "layers"), [(CIFARResNet34(width=1 / 16), 73), (SmallVGG(width=0.1), 11)])
def test_every_parameter_belongs_to_one_layer(network, layers):
    order = layer_order(network)
    assert len(order) == len(set(order)) == layers
    owned = [f"{name}.{p}" for name in order for p, _ in network.get_submodule(name).named_parameters(recurse=False)]
    assert owned == [name for name, _ in network.named_parameters()]


def test_wrappers_do_not_get_in_the_way():
    wrapped = Pipeline([Standardize([0.5] * 3, [0.25] * 3), Pipeline([resnet()])])
    assert layer_order(wrapped) == [f"stages.1.stages.0.{name}" for name in RESNET18]
    for cutoff in ("layer2.1.bn1", "stages.0.layer2.1.bn1", "stages.1.stages.0.layer2.1.bn1"):
        assert position(wrapped, cutoff) == 17
    assert named_layer(wrapped, "conv1") == "stages.1.stages.0.conv1"
    hah = WithHaHBlocks(resnet(), blocks=2)
    assert position(hah, "layer1.0.conv2") == 2, "the normalisations of HaH blocks have no parameters"
    assert named_layer(hah, "layer1.0.conv1") == "network.layer1.0.conv1.conv", "a HaH block is one layer"


def test_modules_of_several_layers_and_of_none_are_places_too():
    network = resnet()
    assert position(network, "layer2") == position(network, "layer2.0") == 10
    assert position(VGG16(width=1 / 16), "features.44") == 26
    norms = nn.Sequential(nn.ReLU(), nn.BatchNorm1d(3, affine=False), nn.BatchNorm1d(3, track_running_stats=False))
    norms.append(nn.BatchNorm1d(3, affine=False, track_running_stats=False)).append(nn.Linear(3, 3))
    assert layer_order(norms) == ["1", "2", "4"]


def test_any_network_is_in_the_order_of_its_registration():
    network = PreActResNet18(width=1 / 16)
    assert layer_order(network)[:5] == ["conv1", *(f"layer1.0.{name}" for name in ("bn1", "conv1", "bn2", "conv2"))]
    assert "layer2.0.shortcut" in layer_order(network)


def test_a_number_in_digits_is_a_number_and_never_a_name():
    assert position(VGG16(width=1 / 16), "3") == 3, "not features.3, which is the third of them"
    assert named_layer(VGG16(width=1 / 16), "3") == named_layer(VGG16(width=1 / 16), 3) == "features.4"
    assert named_layer(resnet(), 0) == "conv1"


def test_an_unknown_name_lists_the_order_the_nearest_first():
    with pytest.raises(UserError, match=r"nearest are layer2.1.bn1, layer2.1.bn2, .*in order, conv1, bn1, .*linear$"):
        position(resnet(), "layer2.1.bn")
    with pytest.raises(UserError, match=r"no layer of VGG16 is called 'clasifier'; nearest are classifier"):
        named_layer(VGG16(width=1 / 16), "clasifier")


@pytest.mark.parametrize(
    ("cutoff", "said"),
    [
        (0, r"^cutoff 0: no layer of CIFARResNet18 lies before it.*stage one.*from 1 to 40, .*from bn1 to linear"),
        ("0", "^cutoff 0: no layer of CIFARResNet18 lies before it"),
        (-1, "^cutoff -1: no layer of CIFARResNet18 lies before it"),
        ("conv1", "^cutoff conv1: no layer of CIFARResNet18 lies before it"),
        (41, "^cutoff 41: no layer of CIFARResNet18 lies behind it"),
        ("99", "^cutoff 99: no layer of CIFARResNet18 lies behind it"),
    ],
)
def test_end_points_are_explained(cutoff, said):
    with pytest.raises(UserError, match=said):
        position(resnet(), cutoff)


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ("layer2.1", r"one layer, got 'layer2.1', which holds 4 layers, layer2.1.conv1, .*conv1, bn1"),
        ("standardize", "'standardize', which has no parameters or running statistics"),
        (41, "layer 41: CIFARResNet18 has layers 0 to 40"),
        (-1, "layer -1: "),
    ],
)
def test_a_layer_is_one_layer(layer, said):
    with pytest.raises(UserError, match=said):
        named_layer(resnet(), layer)


def test_a_name_that_fits_two_layers_is_refused():
    twins = Pipeline([nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2))])
    twins.stages[0].head, twins.stages[1].head = nn.Linear(2, 2), nn.Linear(2, 2)
    with pytest.raises(UserError, match=r"'head' names 2 layers; .* stages.0.head, stages.1.head"):
        position(twins, "head")
    assert position(twins, "stages.1.head") == 3


def test_a_network_of_one_layer_has_no_cutoff():
    with pytest.raises(UserError, match=r"layers on both sides, and Sequential has 1 of them"):
        position(nn.Sequential(nn.Linear(2, 2)), 1)


def test_a_module_with_parameters_of_its_own_and_layers_inside_is_a_layer():
    outer = nn.Module()
    outer.inner = nn.Module()
    outer.inner.scale = nn.Parameter(torch.ones(1))
    outer.inner.linear = nn.Linear(1, 1)
    assert layer_order(outer) == ["inner", "inner.linear"]
    assert named_layer(outer, "inner") == "inner"
