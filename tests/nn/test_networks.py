"""What every network promises: shapes, clear errors, standardisation inside, gradients, no surprises for hooks."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lit_robust.nn import VGG16, CIFARResNet18, CIFARResNet34, PreActResNet18, ResNet32, SmallCNN, SmallVGG, WideResNet

torch.set_num_threads(1)

# Name -> (constructor of a small version, side of an image that fits)
NETWORKS = {
    "SmallCNN": (partial(SmallCNN, size=18, width=0.25), 18),
    "SmallVGG": (partial(SmallVGG, width=1 / 8), 16),
    "VGG16": (partial(VGG16, width=1 / 16), 32),
    "CIFARResNet18": (partial(CIFARResNet18, width=1 / 16), 12),
    "CIFARResNet34": (partial(CIFARResNet34, width=1 / 16), 12),
    "ResNet32": (ResNet32, 9),
    "ResNet32 wide": (partial(ResNet32, widen=2, final_norm=False), 8),
    "PreActResNet18": (partial(PreActResNet18, width=1 / 16), 12),
    "WideResNet": (partial(WideResNet, depth=10, widen_factor=1), 9),
}
each_network = pytest.mark.parametrize("name", NETWORKS)


def build(name, **kwargs):
    torch.manual_seed(0)
    make, side = NETWORKS[name]
    network = make(**kwargs)
    x = torch.rand(3, network.in_channels, side, side)
    return network, x


def settled(network, x):
    """The network in evaluation mode, its running statistics those of `x`, so that a signal survives its depth."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    network.train()(x)
    return network.eval()


@each_network
@pytest.mark.parametrize(("channels", "classes"), [(1, 2), (3, 10), (25, 7)])
def test_logits_follow_the_data(name, channels, classes):
    network, x = build(name, in_channels=channels, num_classes=classes)
    assert network.eval()(x).shape == (3, classes)
    assert (network.in_channels, network.num_classes) == (channels, classes)


@each_network
def test_none_is_the_default_of_the_field(name):
    network, x = build(name, in_channels=None, num_classes=None)
    assert network.num_classes == 10
    assert network.in_channels == (1 if name in ("SmallCNN", "SmallVGG") else 3)
    assert network.eval()(x).shape == (3, 10)


@each_network
def test_evaluation_is_deterministic_and_per_sample(name):
    network, x = build(name)
    together = settled(network, x)(x)
    assert torch.equal(together, network(x))
    alone = torch.cat([network(row[None]) for row in x])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(together[0], together[1], atol=1e-3, rtol=0)


@each_network
def test_gradient_reaches_every_parameter_and_the_image(name):
    network, x = build(name)
    x.requires_grad_()
    F.cross_entropy(network.train()(x), torch.tensor([0, 1, 2])).backward()
    # A convolution bias before batch normalisation has no effect, so its gradient is zero but for rounding.
    silent = {f"features.{i}.bias" for i in (0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40)}
    dead = {n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()}
    assert dead <= silent
    assert x.grad.flatten(1).any(1).all()


@each_network
def test_nothing_overwrites_what_a_hook_keeps(name):
    channels = build(name)[0].in_channels
    network, x = build(name, mean=[0.4] * channels, std=[0.3] * channels)
    before = x.clone()
    kept = []

    def keep(module, args, output):
        kept.append((module, output, output.clone()))

    handles = [m.register_forward_hook(keep) for m in network.modules() if not list(m.children())]
    network.eval()(x)
    for handle in handles:
        handle.remove()
    assert len(kept) > 4
    assert [m for m, output, copy in kept if not torch.equal(output, copy)] == []
    assert torch.equal(x, before)


@each_network
def test_standardisation_is_the_first_layer_and_exact(name):
    channels = build(name)[0].in_channels
    mean, std = [0.1 * (c + 1) for c in range(channels)], [0.2 * (c + 1) for c in range(channels)]
    network, x = build(name, mean=mean, std=std)
    plain, _ = build(name)
    assert next(iter(dict(network.named_children()))) == "standardize"
    assert [n for n, _ in network.named_children() if n != "standardize"] == [n for n, _ in plain.named_children()]
    assert "standardize" not in dict(plain.named_children())
    by_hand = (x - torch.tensor(mean).view(1, -1, 1, 1)) / torch.tensor(std).view(1, -1, 1, 1)
    # The two have the same weights, and with the same input the same statistics.
    assert torch.equal(settled(network, x)(x), settled(plain, by_hand)(by_hand))
    assert not torch.allclose(network(x), plain(x), atol=1e-2)


@each_network
def test_errors_say_what_came_and_the_way_out(name):
    network, x = build(name)
    kind, channels = type(network).__name__, network.in_channels
    with pytest.raises(ValueError, match=rf"{kind} expected {channels} channels, got {channels + 1}; .*data\.channels"):
        network(torch.rand(1, channels + 1, *x.shape[2:]))
    with pytest.raises(ValueError, match=rf"{kind} expected images \(N, {channels}, H, W\), got shape"):
        network(x[0])
    small = network.smallest - 1
    with pytest.raises(ValueError, match=rf"{kind} takes images of .*{network.smallest}.* got {small}x{small}; .*size"):
        network(torch.rand(1, channels, small, small))
    with pytest.raises(ValueError, match=f"got {x.shape[2]}x{small}"):
        network(torch.rand(1, channels, x.shape[2], small))
    if network.largest is not None:
        side = network.largest + 1
        with pytest.raises(ValueError, match=rf"{kind} takes images of .*{network.largest}.* got {side}x{side}"):
            network(torch.rand(1, channels, side, side))


@each_network
def test_every_size_that_is_said_to_fit_fits(name):
    network, _ = build(name)
    network.eval()
    sizes = {network.smallest, network.smallest + 1, network.largest or network.smallest + 7}
    for side in sorted(size for size in sizes if size <= (network.largest or size)):
        assert network(torch.rand(1, network.in_channels, side, side)).shape == (1, 10)


@each_network
@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"mean": [0.5]}, "mean and std together"),
        ({"std": [0.5]}, "mean and std together"),
        ({"in_channels": 3, "mean": [0.5], "std": [0.5]}, "one mean for each of 3 channels, got 1"),
        ({"num_classes": 0}, "at least 1, got 0"),
        ({"in_channels": 0}, "at least 1, got"),
    ],
)
def test_constructors_refuse_what_cannot_be(name, kwargs, message):
    with pytest.raises(ValueError, match=message):
        NETWORKS[name][0](**kwargs)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(SmallCNN, size=15), "at least 16 pixels, got 15"),
        (partial(SmallCNN, width=0.0), "width to be above 0"),
        (partial(VGG16, width=-1.0), "width to be above 0"),
        (partial(CIFARResNet18, width=0.0), "width to be above 0"),
        (partial(PreActResNet18, width=0.0), "width to be above 0"),
        (partial(ResNet32, widen=0), "widen to be at least 1"),
        (partial(WideResNet, depth=27), "6n \\+ 4, got 27"),
        (partial(WideResNet, depth=13), "6n \\+ 4, got 13"),
        (partial(WideResNet, depth=4), "6n \\+ 4, got 4"),
        (partial(WideResNet, depth=10, widen_factor=0), "widen_factor to be at least 1"),
        (partial(WideResNet, depth=10, dropout=1.0), "dropout to be at least 0 and below 1"),
    ],
)
def test_sizes_that_make_no_network(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("name", "last", "slope"),
    [
        ("CIFARResNet18", "layer4", 0.0),
        ("CIFARResNet34", "layer4", 0.0),
        ("PreActResNet18", "bn", 0.0),
        ("WideResNet", "bn", 0.0),
        ("ResNet32", "bn", 0.1),
        ("ResNet32 wide", "layer3", 0.1),
    ],
)
def test_head_is_a_global_average_of_the_last_activation(name, last, slope):
    network, x = build(name)
    maps = []
    network.get_submodule(last).register_forward_hook(lambda module, args, output: maps.append(output))
    logits = settled(network, x)(x)
    features = F.leaky_relu(maps[-1], slope).flatten(2).mean(2)
    torch.testing.assert_close(logits, features @ network.linear.weight.T + network.linear.bias)


def test_dropout_is_for_training_alone():
    torch.manual_seed(0)
    network = WideResNet(depth=10, widen_factor=1, dropout=0.5)
    x = torch.rand(2, 3, 8, 8)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # leaves dropout as the only difference between two passes
    assert not torch.equal(network(x), network(x))
    assert torch.equal(network.eval()(x), network(x))
