"""HaH blocks put into networks: which convolutions, in what order, and that nothing else changes."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
import torchvision
from jsonargparse import ArgumentParser
from torch import nn

from lit_robust.errors import UserError
from lit_robust.follow import follow_data
from lit_robust.nn import (
    VGG16,
    AdditiveNoise,
    CIFARResNet18,
    DivisiveNorm,
    FractionThreshold,
    HaHBlock,
    HaHVGG16,
    HebbianCost,
    MeanThreshold,
    Pipeline,
    PreActResNet18,
    ResNet32,
    SmallCNN,
    Standardize,
    WeightNormConv2d,
    WideResNet,
    WithHaHBlocks,
)
from lit_robust.nn.hah_block import hah_blocks
from lit_robust.taps import Taps

torch.set_num_threads(1)

ADDED = "followed by an addition"
TWICE = "a normalisation that runs more than once"
IN_STAGES = [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]
IN_GROUPS = [f"layer{group}.{unit}" for group in (1, 2, 3) for unit in range(5)]
# Name -> (constructor of a small version, side of the images, triples in the order of execution, left)
NETWORKS = {
    "VGG16": (
        partial(VGG16, width=1 / 16),
        32,
        [f"features.{i}" for i in (0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40)],
        [],
    ),
    "CIFARResNet18": (
        partial(CIFARResNet18, width=1 / 16),
        16,
        ["conv1", *(f"{name}.conv1" for name in IN_STAGES)],
        [*(f"{name}.conv2" for name in IN_STAGES), *(f"layer{stage}.0.shortcut.0" for stage in (2, 3, 4))],
    ),
    # The raw output of the stem is the first block's shortcut.
    "PreActResNet18": (
        partial(PreActResNet18, width=1 / 16),
        16,
        [f"{name}.conv1" for name in IN_STAGES],
        ["conv1", *(f"{name}.conv2" for name in IN_STAGES), *(f"layer{stage}.0.shortcut" for stage in (2, 3, 4))],
    ),
    # Its first unit takes the shortcut from what the stem's normalisation and activation make.
    "ResNet32": (
        ResNet32,
        8,
        ["conv1", *(f"{name}.conv1" for name in IN_GROUPS)],
        [f"{name}.conv2" for name in IN_GROUPS],
    ),
    # All blocks of the wide network have a projection of the activated input, of the narrow one only two.
    "WideResNet": (
        partial(WideResNet, depth=10, widen_factor=2),
        8,
        ["conv1", *(f"layer{group}.0.conv1" for group in (1, 2, 3))],
        [f"layer{group}.0.{name}" for group in (1, 2, 3) for name in ("conv2", "shortcut")],
    ),
    "WideResNet narrow": (
        partial(WideResNet, depth=10, widen_factor=1),
        8,
        [f"layer{group}.0.conv1" for group in (1, 2, 3)],
        ["conv1", *(f"layer{group}.0.conv2" for group in (1, 2, 3)), "layer2.0.shortcut", "layer3.0.shortcut"],
    ),
    # A ReLU after a max-pool is the ReLU before it.
    "SmallCNN": (partial(SmallCNN, size=16, width=0.25), 16, ["conv1", "conv2"], []),
}
each_network = pytest.mark.parametrize("name", NETWORKS)


def build(name, *, seed=0):
    torch.manual_seed(seed)
    make, side, triples, left = NETWORKS[name]
    network = make()
    return network, (network.in_channels, side, side), triples, left


def converted(network, shape, blocks, **options):
    return WithHaHBlocks(network, blocks=blocks, image_shape=shape, **options)


class Net(nn.Module):
    """A module made of layers and of a function of them."""

    def __init__(self, function, **layers):
        super().__init__()
        self.layers = nn.ModuleDict(layers)
        self.function = function

    def forward(self, x):
        return self.function(self.layers, x)


def conv(into=2, out=2, **options):
    return nn.Conv2d(into, out, 3, padding=1, **options)


def single(function, **layers):
    """A network of one convolution `layers.a` and what a function makes of it, and how it is called."""
    return Net(function, a=conv(), **layers), (2, 6, 6)


# --- which convolutions ---


@each_network
def test_the_triples_of_each_network_in_the_order_of_execution(name):
    network, shape, triples, left = build(name)
    model = converted(network, shape, len(triples))
    assert model.converted == triples
    assert model.left == dict.fromkeys(left, ADDED)
    assert [n for n, _ in hah_blocks(network)] == triples
    assert [block.position for _, block in hah_blocks(network)] == list(range(1, len(triples) + 1))
    assert model(torch.rand(2, *shape)).shape == (2, 10)


def test_single_pixels_are_left_only_under_a_threshold():
    shape = (3, 8, 8)
    model = converted(CIFARResNet18(width=1 / 16), shape, 7)
    assert model.converted == ["conv1", *(f"{name}.conv1" for name in IN_STAGES[:6])]
    pixels = {n for n, reason in model.left.items() if reason == "1x1 maps under a threshold"}
    assert pixels == {"layer4.0.conv1", "layer4.1.conv1"}
    with pytest.raises(UserError, match=r"layer4\.0\.conv1, layer4\.1\.conv1 \(1x1 maps under a threshold\)"):
        converted(CIFARResNet18(width=1 / 16), shape, 8)
    free = converted(CIFARResNet18(width=1 / 16), shape, 9, threshold=None)
    assert free.converted[-1] == "layer4.1.conv1"
    assert free(torch.rand(2, *shape)).shape == (2, 10)


def test_the_order_is_that_of_execution_and_not_of_registration():
    net = Net(
        lambda m, x: m["first"](m["second"](x).relu()).relu().mean((2, 3)),
        first=conv(),
        second=conv(),
    )
    model = converted(net, (2, 6, 6), 2)
    assert model.converted == ["layers.second", "layers.first"]
    assert [name for name, _ in hah_blocks(model)] == ["network.layers.second", "network.layers.first"]


def unconverted(n):
    torch.manual_seed(0)
    layers = [layer for _ in range(n) for layer in (conv(), nn.BatchNorm2d(2), nn.ReLU())]
    return nn.Sequential(*layers)


ACTIVATIONS = {
    "F.relu": F.relu,
    "torch.relu": torch.relu,
    "Tensor.relu": lambda x: x.relu(),
    "Tensor.relu_": lambda x: x.relu_(),
    "in place": lambda x: F.relu(x, inplace=True),
    "leaky": lambda x: F.leaky_relu(x, 0.1),
    "leaky in place": lambda x: F.leaky_relu_(x, 0.1),
    "elu": F.elu,
    "celu": F.celu,
    "rrelu": F.rrelu,
    "ReLU": nn.ReLU(),
    "ReLU in place": nn.ReLU(inplace=True),
    "PReLU": nn.PReLU(),
}
OTHERS = {
    "relu6": F.relu6,
    "hardtanh": nn.Hardtanh(),
    "gelu": F.gelu,
    "silu": nn.SiLU(inplace=True),
    "selu": torch.selu,
    "softplus": F.softplus,
    "sigmoid": torch.sigmoid,
    "tanh": lambda x: x.tanh(),
}


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_in_every_form(activation, normalised):
    act = ACTIVATIONS[activation]
    layers = {"act": copy.deepcopy(act)} if isinstance(act, nn.Module) else {}

    def function(m, x):
        y = m["norm"](m["a"](x)) if normalised else m["a"](x)
        return m["act"](y) if layers else act(y)

    net, shape = single(function, norm=nn.BatchNorm2d(2), **layers)
    if not normalised and activation in ("Tensor.relu_", "in place", "leaky in place"):
        # A function cannot be told not to overwrite what the threshold keeps for its backward pass.
        with pytest.raises(UserError, match=r"layers\.a \(followed by \w+ in place, called as a function\)"):
            converted(net, shape, 1)
        return
    model = converted(net, shape, 1)
    assert model.converted == ["layers.a"]
    x = torch.randn(2, *shape)
    out = model(x)
    assert torch.equal(out, model.network.layers["a"](x))
    out.square().sum().backward()
    assert model.network.layers["a"].conv.weight.grad.any()


@pytest.mark.parametrize("name", OTHERS)
def test_activations_that_change_positive_numbers_are_left_and_named(name):
    net, shape = single(lambda m, x: OTHERS[name](m["a"](x)))
    assert converted(net, shape, 0).left == {"layers.a": f"followed by {name}"}


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda m, x: m["a"](x) + x, ADDED),
        (lambda m, x: m["norm"](m["a"](x)) + x, ADDED),
        (lambda m, x: x + m["norm"](m["a"](x)), ADDED),
        (lambda m, x: torch.add(x, m["a"](x)).relu(), ADDED),
        (lambda m, x: F.max_pool2d(m["a"](x), 3, 1, 1) + x, ADDED),
        (lambda m, x: m["a"](x).add_(x), ADDED),
        (lambda m, x: (y := m["a"](x)).relu() + y, ADDED),
        (lambda m, x: (y := m["norm"](m["a"](x))).relu() - y, "followed by relu and sub"),
        (lambda m, x: F.dropout(m["norm"](m["a"](x)), 0.5, m.training).relu(), "followed by dropout"),
        (lambda m, x: m["norm"](m["norm"](m["a"](x))).relu(), "followed by BatchNorm2d"),
        (lambda m, x: m["norm"](m["a"](x)).relu() + m["norm"](x), f"followed by {TWICE}"),
        (lambda m, x: m["a"](m["a"](x).relu()).relu(), "runs 2 times in a forward pass"),
        (lambda m, x: m["b"](m["a"](x)).relu(), "followed by Conv2d"),
        (lambda m, x: m["norm"](x), "does not run"),
        (lambda m, x: (m["a"](x), x.relu())[1], "followed by nothing that was seen"),
        (lambda m, x: (y := m["a"](x), y.relu()), "followed by the network's output and relu"),
        (lambda m, x: {"maps": m["a"](x)}, "followed by the network's output"),
        (lambda m, x: torch.cat([m["a"](x), x], 1), "followed by cat"),
        (lambda m, x: m["a"](x).clamp(min=0), "followed by clamp"),
        (lambda m, x: m["a"](x).unflatten(1, (1, 2)).relu(), "followed by unflatten"),
        (lambda m, x: F.avg_pool2d(m["a"](x), 2).relu(), "followed by avg_pool2d"),
    ],
)
def test_what_is_no_triple_is_left_with_its_reason(function, reason):
    net, shape = single(function, b=conv(), norm=nn.BatchNorm2d(2))
    found = converted(net, shape, 0).left["layers.a"]
    assert sorted(found.removeprefix("followed by ").split(" and ")) == sorted(
        reason.removeprefix("followed by ").split(" and ")
    )


def test_an_assignment_into_the_maps_is_seen():
    def function(m, x):
        y = m["a"](x)
        y[:, 0] = 0
        return y.relu()

    net, shape = single(function)
    assert converted(net, shape, 0).left == {"layers.a": "followed by __setitem__"}


def test_what_is_asked_of_the_maps_is_no_follower():
    def function(m, x):
        y = m["a"](x)
        assert y.shape[1] == y.size(1) == 2
        assert y.ndim == y.dim() == 4
        assert y.is_floating_point()
        return y.relu()

    net, shape = single(function)
    assert converted(net, shape, 1).converted == ["layers.a"]


def test_frozen_convolutions_stay():
    net, shape = single(lambda m, x: m["b"](m["a"](x).relu()).relu(), b=conv())
    net.layers["a"].requires_grad_(False)
    model = converted(net, shape, 1)
    assert model.converted == ["layers.b"]
    assert model.left == {"layers.a": "is frozen"}


def test_a_normalisation_after_the_activation_belongs_to_the_block():
    torch.manual_seed(0)
    published = HaHVGG16(width=1 / 16, hah_blocks=3).double().eval()
    model = converted(HaHVGG16(width=1 / 16, hah_blocks=0), (3, 32, 32), 3).double().eval()
    assert model.converted == [f"block{number}.conv" for number in (1, 2, 3)]
    weights = {n.replace(".conv.weight", ".conv.conv.weight"): w for n, w in published.state_dict().items()}
    weights = {
        n if n.startswith(("block1.", "block2.", "block3.")) else n.replace(".conv.conv", ".conv"): w
        for n, w in weights.items()
    }
    model.network.load_state_dict(weights)
    x = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    assert torch.equal(model(x), published(x))


@pytest.mark.parametrize(
    ("make", "side", "names"),
    [
        # Its ReLUs are in place, one for both uses in a block.
        ("resnet18", 64, ["conv1", "layer1.0.conv1", "layer1.1.conv1", "layer2.0.conv1", "layer2.1.conv1"]),
        ("squeezenet1_1", 64, ["features.0", *(f"features.3.{n}" for n in ("squeeze", "expand1x1", "expand3x3"))]),
    ],
)
def test_networks_of_torchvision(make, side, names):
    torch.manual_seed(0)
    model = converted(getattr(torchvision.models, make)(num_classes=5), (3, side, side), len(names))
    assert model.converted == names
    if make == "resnet18":
        expected = {f"{n}.conv2" for n in IN_STAGES} | {f"layer{stage}.0.downsample.0" for stage in (2, 3, 4)}
        assert model.left == dict.fromkeys(expected, ADDED)
    logits = model(torch.rand(2, 3, side, side))
    assert logits.shape == (2, 5)
    logits.square().sum().backward()
    assert all(block.conv.weight.grad.any() for _, block in hah_blocks(model))


# --- what becomes of them ---


def test_a_converted_block_is_its_composition():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    try:
        norm, keep = partial(DivisiveNorm, sigma=0.3, field=1), partial(FractionThreshold, keep=0.5)
        model = converted(CIFARResNet18(width=1 / 16), (3, 16, 16), 2, norm=norm, threshold=keep).eval()
        x = torch.rand(3, 3, 16, 16)
        with Taps(model, ["network.layer1", "network.layer1.0.conv1"]) as taps:
            model(x)
    finally:
        torch.set_default_dtype(torch.float32)

    def by_hand(x, w):
        y = F.conv2d(x, w / (w.flatten(1).norm(dim=1)[:, None, None, None] + 1e-6), padding=1).clamp(min=0)
        mean = y.mean(1, keepdim=True)
        z = y / (0.3 * mean.amax((2, 3), keepdim=True) + 0.7 * mean)
        return torch.where(z > z.flatten(2).kthvalue(128, dim=2).values[..., None, None], z, 0)

    layers = model.network
    stem = by_hand(x, layers.conv1.conv.weight)
    torch.testing.assert_close(taps["network.layer1"].input, stem)
    inner = by_hand(stem, layers.layer1[0].conv1.conv.weight)
    torch.testing.assert_close(taps["network.layer1.0.conv1"].output, inner)
    block = layers.layer1[0]
    first = F.relu(block.bn2(F.conv2d(inner, block.conv2.weight, padding=1)) + stem)
    block = layers.layer1[1]
    second = F.relu(block.bn2(block.conv2(F.relu(block.bn1(block.conv1(first))))) + first)
    torch.testing.assert_close(taps["network.layer1"].output, second)


GEOMETRY = {
    "kernel_size": (3, 5),
    "stride": (2, 1),
    "padding": (1, 2),
    "dilation": (2, 1),
    "groups": 2,
    "padding_mode": "reflect",
}


def test_geometry_and_kind_are_those_of_the_convolution():
    old = nn.Conv2d(4, 6, **GEOMETRY, bias=True, dtype=torch.float64)
    net = nn.Sequential(old, nn.BatchNorm2d(6, dtype=torch.float64), nn.ReLU())
    net[0].eval()
    model = converted(net, (4, 9, 9), 1, norm=nn.BatchNorm2d, threshold=partial(MeanThreshold, scale=0.5))
    block = model.network[0]
    assert isinstance(block, HaHBlock)
    assert type(block.conv) is WeightNormConv2d
    assert {name: getattr(block.conv, name) for name in GEOMETRY} == GEOMETRY
    assert block.conv.bias is None
    assert {p.dtype for p in block.parameters()} == {torch.float64}
    assert isinstance(block.norm, nn.BatchNorm2d)
    assert block.norm.num_features == 6
    assert isinstance(block.threshold, MeanThreshold)
    assert (block.training, block.conv.training, model.training) == (False, False, True)
    assert type(model.network[1]) is nn.Identity
    x = torch.randn(2, 4, 9, 9, dtype=torch.float64)
    assert block.conv(x).shape == old(x).shape


def test_the_weights_are_new_and_everything_else_stays():
    network, shape, _, _ = build("CIFARResNet18")
    before = copy.deepcopy(network)
    model = converted(network, shape, 3)
    assert model.network is network
    weight = network.conv1.conv.weight
    assert weight.shape == before.conv1.weight.shape
    assert not torch.equal(weight, before.conv1.weight)
    assert weight.abs().max() <= 1 / 27**0.5  # torch's default: uniform within 1 / sqrt(fan in)
    gone = ("conv1.", "bn1.", "layer1.0.conv1.", "layer1.0.bn1.", "layer1.1.conv1.", "layer1.1.bn1.")
    kept = {n: p for n, p in before.state_dict().items() if not n.startswith(gone)}
    now = network.state_dict()
    assert {n for n in now if not n.startswith(gone)} == set(kept)
    assert all(torch.equal(now[n], p) for n, p in kept.items())


def test_a_convolution_with_several_names_is_replaced_under_all():
    shared = conv()
    net, shape = single(lambda m, x: m["b"](x).relu(), b=nn.Sequential(shared), c=shared)
    net.layers["a"] = shared
    model = converted(net, shape, 1)
    assert model.converted == ["layers.a"]
    assert isinstance(net.layers["a"], HaHBlock)
    assert net.layers["b"][0] is net.layers["c"] is net.layers["a"]


def test_an_activation_in_place_overwrites_nothing_that_is_kept():
    torch.manual_seed(0)
    plain = nn.Sequential(conv(), nn.BatchNorm2d(2), nn.ReLU(), conv(), nn.ReLU())
    written = copy.deepcopy(plain)
    written[2].inplace = written[4].inplace = True
    x = torch.rand(2, 2, 6, 6)
    results = []
    for net in (plain, written):
        torch.manual_seed(1)
        model = converted(net, (2, 6, 6), 2)
        out = model(x)
        out.square().sum().backward()
        results.append((out, net[0].conv.weight.grad))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_activations_of_what_is_not_converted_keep_their_form():
    net = nn.Sequential(conv(), nn.ReLU(inplace=True), conv(), nn.ReLU(inplace=True))
    converted(net, (2, 6, 6), 1)
    assert [net[1].inplace, net[3].inplace] == [False, True]


@each_network
def test_a_training_step_with_hebbian_costs(name):
    network, shape, triples, _ = build(name)
    model = converted(network, shape, len(triples)).train()
    cost = HebbianCost(alphas=[1e-3] * len(triples), fraction=0.3)
    cost.check(model)
    x, y = torch.rand(4, *shape), torch.arange(4)
    with cost.collecting(model) as terms:
        loss = F.cross_entropy(model(x), y)
        assert list(terms()) == [f"hah/network.{name}" for name in triples]
        (loss + sum(terms().values())).backward()
    for _, block in hah_blocks(model):
        assert block.conv.weight.grad.any()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_one_backward_pass_gives_the_gradients_of_local_costs():
    network, shape, triples, _ = build("CIFARResNet18")
    model = converted(network, shape, len(triples)).double()
    alphas = [0.1 * (1 + number) for number in range(len(triples))]
    x, y = torch.rand(4, *shape, dtype=torch.float64), torch.arange(4)
    hebbian = HebbianCost(alphas=alphas, fraction=0.3)

    def gradients(loss):
        model.zero_grad()
        loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters()}

    with hebbian.collecting(model) as terms:
        found = gradients(F.cross_entropy(model(x), y) + sum(terms().values()))
    with Taps(model, [f"network.{name}.conv" for name in triples]) as taps:
        loss = F.cross_entropy(model(x), y)
    for name, alpha in zip(triples, alphas, strict=True):
        ranked = F.relu(taps[f"network.{name}.conv"].local()).sort(dim=1, descending=True).values
        k = -(-3 * ranked.shape[1] // 10)
        loss = loss - alpha * (ranked[:, :k].mean() - ranked[:, k:].mean())
    expected = gradients(loss)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


# --- the trial leaves no trace ---


def test_the_network_is_as_it_was_but_for_the_blocks():
    network, shape, _, _ = build("CIFARResNet18")
    network.layer1[0].eval()
    network.layer2.requires_grad_(False)
    modes = {n: m.training for n, m in network.named_modules()}
    before = {n: t.clone() for n, t in network.state_dict().items()}
    grads = {n: p.requires_grad for n, p in network.named_parameters()}
    generator = torch.get_rng_state()
    converted(network, shape, 0)
    assert torch.equal(torch.get_rng_state(), generator)
    assert {n: m.training for n, m in network.named_modules()} == modes
    assert {n: p.requires_grad for n, p in network.named_parameters()} == grads
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    assert all(p.grad is None for p in network.parameters())
    assert torch.is_grad_enabled()


def test_neither_an_error_nor_a_random_layer_leaves_a_trace():
    class Random(nn.Module):
        def forward(self, x):
            return x + torch.rand_like(x)

    network = Pipeline([Random(), AdditiveNoise(0.1), *unconverted(1)])
    generator = torch.get_rng_state()
    with pytest.raises(UserError, match=r"does not take 3x6x6 images: .*; set image_shape to what it takes"):
        converted(network, (3, 6, 6), 0)
    assert converted(network, (2, 6, 6), 0).left == {}
    assert torch.equal(torch.get_rng_state(), generator)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    assert network.training


def test_building_draws_what_the_new_layers_draw():
    shape = (2, 6, 6)
    torch.manual_seed(3)
    model = converted(unconverted(2), shape, 2)  # sets its own seed
    after = torch.rand(1)
    unconverted(2)
    weights = [WeightNormConv2d(2, 2, 3, padding=1).weight for _ in range(2)]
    assert torch.equal(after, torch.rand(1))
    for weight, (_, block) in zip(weights, hah_blocks(model), strict=True):
        assert torch.equal(weight, block.conv.weight)


def test_the_trial_is_made_on_two_blank_images_in_eval_mode_without_gradients():
    seen = []

    class Watched(nn.Module):
        def forward(self, x):
            seen.append((x.shape, x.dtype, bool(x.any()), torch.is_grad_enabled(), self.training))
            return x

    converted(nn.Sequential(Watched(), conv().double()), (2, 6, 5), 0)
    assert seen == [((2, 2, 6, 5), torch.float64, False, False, False)]


def test_hooks_of_others_are_kept():
    net, shape = single(lambda m, x: m["a"](x).relu())
    seen = []
    net.register_forward_hook(lambda *_: seen.append(1))
    model = converted(net, shape, 1)
    model(torch.rand(1, *shape))
    assert len(seen) == 2


# --- saved, copied, nested, from a config ---


def test_state_and_copies():
    network, shape, _, _ = build("PreActResNet18")
    model = converted(network, shape, 4).eval()
    again = converted(build("PreActResNet18", seed=1)[0], shape, 4).eval()
    x = torch.rand(2, *shape)
    assert not torch.equal(model(x), again(x))
    again.load_state_dict(model.state_dict())
    assert torch.equal(model(x), again(x))
    assert "network.layer1.0.conv1.conv.weight" in model.state_dict()
    clone = copy.deepcopy(model)
    assert torch.equal(clone(x), model(x))
    assert [b.position for _, b in hah_blocks(clone)] == [1, 2, 3, 4]


def test_nested_in_a_pipeline_and_around_one():
    torch.manual_seed(0)
    pipeline = Pipeline([Standardize([0.5] * 3, [0.25] * 3), CIFARResNet18(width=1 / 16)])
    model = WithHaHBlocks(pipeline, blocks=2)
    assert model.converted == ["stages.1.conv1", "stages.1.layer1.0.conv1"]
    inside = Pipeline([Standardize([0.5], [0.2]), WithHaHBlocks(CIFARResNet18(width=1 / 16, in_channels=1), blocks=2)])
    assert inside(torch.rand(2, 1, 16, 16)).shape == (2, 10)
    assert [name for name, _ in hah_blocks(inside)] == ["stages.1.network.conv1", "stages.1.network.layer1.0.conv1"]
    own = WithHaHBlocks(CIFARResNet18(width=1 / 16, mean=[0.5] * 3, std=[0.25] * 3), blocks=1)
    assert own.converted == ["conv1"]


def test_it_costs_no_memory_on_the_meta_device():
    with torch.device("meta"):
        model = WithHaHBlocks(CIFARResNet18())
    # Of six blocks the normalisations are gone: 2 (64 + 64 + 64 + 128 + 128 + 256) numbers.
    assert sum(p.numel() for p in model.parameters()) == 11_173_962 - 2 * 704


def test_from_a_config_that_follows_the_data():
    spec = {
        "class_path": "WithHaHBlocks",
        "init_args": {
            "network": {"class_path": "CIFARResNet18", "init_args": {"width": 0.125}},
            "blocks": 4,
            "norm": {"class_path": "DivisiveNorm", "init_args": {"sigma": 0.2}},
            "threshold": {"class_path": "FractionThreshold", "init_args": {"keep": 0.3}},
        },
    }
    parser = ArgumentParser()
    parser.add_argument("--network", type=nn.Module)
    config = parser.parse_object({"network": spec})
    follow_data(config, {"num_classes": 7, "in_channels": 1, "image_shape": [1, 8, 8]})
    model = parser.instantiate(config).network
    assert type(model) is WithHaHBlocks
    assert model.converted == ["conv1", "layer1.0.conv1", "layer1.1.conv1", "layer2.0.conv1"]
    assert model.left["layer4.0.conv1"] == "1x1 maps under a threshold"
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 7)
    for _, block in hah_blocks(model):
        assert block.norm.sigma == 0.2
        assert block.threshold.keep == 0.3
    # What is saved builds the same network again.
    saved = parser.parse_object({"network": config.network.as_dict()})
    assert set(parser.instantiate(saved).network.state_dict()) == set(model.state_dict())


# --- refusals ---


def test_more_blocks_than_triples_lists_what_was_left_and_why():
    message = (
        r"CIFARResNet18 has 9 convolutions .* on 3x32x32 images; expected blocks of 0 to that, got 10\. "
        r"Left are layer1\.0\.conv2, .*layer2\.0\.shortcut\.0, .* \(followed by an addition\)$"
    )
    with pytest.raises(UserError, match=message):
        WithHaHBlocks(CIFARResNet18(width=1 / 16), blocks=10)
    with pytest.raises(UserError, match="got -1"):
        WithHaHBlocks(CIFARResNet18(width=1 / 16), blocks=-1)


def test_a_refusal_leaves_the_network_as_it_was():
    network = CIFARResNet18(width=1 / 16)
    with pytest.raises(UserError):
        WithHaHBlocks(network, blocks=10)
    assert not hah_blocks(network)


def test_images_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match=r"SmallCNN does not take 1x32x32 images: .* got 32x32; .*set image_shape"):
        WithHaHBlocks(SmallCNN(), blocks=1)


@pytest.mark.parametrize(
    "make", [lambda: HaHVGG16(width=1 / 16, hah_blocks=1), lambda: WithHaHBlocks(VGG16(width=1 / 16))]
)
def test_hah_blocks_twice_are_refused(make):
    with pytest.raises(UserError, match=r"has HaH blocks already: "):
        WithHaHBlocks(make(), blocks=1)


def test_it_says_what_it_did():
    text = repr(WithHaHBlocks(CIFARResNet18(width=1 / 16), blocks=2))
    assert "converted: conv1, layer1.0.conv1\n" in text
    assert "left: layer1.0.conv2, layer1.1.conv2, " in text
    assert "layer4.1.conv2 (followed by an addition)\n" in text
    assert "converted: none" in repr(WithHaHBlocks(CIFARResNet18(width=1 / 16), blocks=0))
