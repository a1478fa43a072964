"""Grad-CAM against a computation by hand and against automatic differentiation, and what it leaves behind: nothing."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lit_robust.analysis import grad_cam
from lit_robust.errors import UserError


class Tiny(nn.Module):
    """x -> (x, 1 - x) -> means over space -> logits."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1)
        self.unused = nn.Conv2d(1, 2, 1)
        self.head = nn.Linear(2, 3, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1))
            self.conv.bias.copy_(torch.tensor([0.0, 1.0]))
            self.head.weight.copy_(torch.tensor([[2.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]))

    def forward(self, x):
        return self.head(self.conv(x).mean((2, 3)))


X = torch.tensor([[[[0.0, 0.5], [1.0, 0.25]]], [[[0.1, 0.2], [0.0, 0.4]]]])


def test_by_hand():
    # The gradient of logit c in channel k is W[c, k] / 4 everywhere, so the map is ReLU(W[c] · a) over its largest.
    first = grad_cam(Tiny(), X, torch.tensor([0, 0]), layer="conv")
    torch.testing.assert_close(first, X[:, 0] / X[:, 0].amax((1, 2), keepdim=True))
    second = grad_cam(Tiny(), X, torch.tensor([1, 1]), layer="conv")
    torch.testing.assert_close(second, (1 - X[:, 0]) / (1 - X[:, 0]).amax((1, 2), keepdim=True))


def test_what_speaks_against_a_class_leaves_an_empty_map():
    assert grad_cam(Tiny(), X, torch.tensor([2, 2]), layer="conv").tolist() == torch.zeros(2, 2, 2).tolist()


def test_the_predicted_class_is_the_default():
    prediction = Tiny()(X).argmax(1)
    assert prediction.tolist() == [0, 1]
    assert torch.equal(grad_cam(Tiny(), X, layer="conv"), grad_cam(Tiny(), X, prediction, layer="conv"))


@pytest.fixture
def deep():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 5, 3),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(45, 6),
    ).eval()


IMAGES = torch.rand(4, 3, 11, 11, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([5, 0, 2, 2])


@pytest.mark.parametrize("layer", [0, 1, 2, 3])
def test_by_automatic_differentiation(deep, layer):
    # Layer 0 is followed by one that works in place.
    output = deep[: layer + 1](IMAGES) if layer != 0 else deep[0](IMAGES)
    output = output.detach().requires_grad_()
    logits = deep[layer + 1 :](output.clone())
    weights = [torch.autograd.grad(logits[i, y], output, retain_graph=True)[0][i] for i, y in enumerate(LABELS)]
    maps = torch.stack([(w.mean((1, 2))[:, None, None] * a).sum(0) for w, a in zip(weights, output, strict=True)])
    wide = F.interpolate(maps.relu()[:, None], size=(11, 11), mode="bilinear", align_corners=False)[:, 0].detach()
    expected = wide / wide.amax((1, 2), keepdim=True).clamp(min=1e-12)
    found = grad_cam(deep, IMAGES, LABELS, layer=str(layer))
    assert found.shape == (4, 11, 11)
    torch.testing.assert_close(found, expected)
    assert found.amax((1, 2)).tolist() == pytest.approx([1.0 if m.amax() > 0 else 0.0 for m in wide])


def test_an_image_counts_alone(deep):
    alone = torch.cat([grad_cam(deep, IMAGES[i : i + 1], LABELS[i : i + 1], layer="2") for i in range(4)])
    torch.testing.assert_close(alone, grad_cam(deep, IMAGES, LABELS, layer="2"))


def test_nothing_is_left_behind(deep):
    images = IMAGES.clone()
    deep[2].weight.requires_grad_(False)
    deep[3].train()
    with torch.no_grad():
        maps = grad_cam(deep, images, LABELS, layer="2")
        assert not torch.is_grad_enabled()
    assert not maps.requires_grad
    assert all(len(m._forward_hooks) == 0 for m in deep.modules())
    assert all(p.grad is None for p in deep.parameters())
    assert [name for name, p in deep.named_parameters() if not p.requires_grad] == ["2.weight"]
    assert [m.training for m in deep] == [False, False, False, True, False, False]
    assert torch.equal(images, IMAGES)
    assert not images.requires_grad


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_networks_and_inference_mode_are_no_obstacle(deep, frozen):
    expected = grad_cam(deep, IMAGES, LABELS, layer="2")
    deep.requires_grad_(not frozen)
    with torch.inference_mode():
        inside = grad_cam(deep, IMAGES.clone(), LABELS.clone(), layer="2")
    assert torch.equal(inside.clone(), expected)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("conv9", "no layer matches 'conv9'; Tiny has conv, unused, head"),
        ("*", r"explains one layer, but '\*' matches conv, unused, head"),
        ("unused", "the forward pass does not reach unused"),
        ("head", r"needs a layer whose output is \(N, C, H, W\); head gives \(2, 3\)"),
    ],
)
def test_layers_that_cannot_be_explained_are_refused(layer, message):
    model = Tiny()
    with pytest.raises(UserError, match=message):
        grad_cam(model, X, layer=layer)
    assert all(len(m._forward_hooks) == 0 for m in model.modules())


class Cut(Tiny):
    """Its logits do not depend on the convolution."""

    def __init__(self, how):
        super().__init__()
        self.how = how

    def forward(self, x):
        y = self.conv(x)
        return self.head(y.detach().mean((2, 3))) if self.how == "detached" else self.head(x.flatten(1)[:, :2])


@pytest.mark.parametrize("how", ["detached", "beside"])
@pytest.mark.parametrize("frozen", [True, False])
def test_a_layer_without_influence_is_refused(how, frozen):
    model = Cut(how).requires_grad_(not frozen)
    with pytest.raises(UserError, match="the logits do not depend on conv"):
        grad_cam(model, X, layer="conv")
    assert all(p.grad is None for p in model.parameters())
