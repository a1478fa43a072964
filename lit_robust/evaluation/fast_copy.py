"""A faster copy of a network for searches.

Batch normalisation is folded into convolutions, channels are stored last where that is faster, and the gradient in the
image is a product.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lit_robust.evaluation.image_conv import ImageConv

_LARGE, _MANY = 1_000_000, 32  # parameters of a large network, images of a batch that is not small
_TOLERANCE = 1e-4  # of the largest logit: what folding may change by rounding in float32


class _Copy(nn.Module):
    """Computes with channels last, and small batches of a large network in the usual order.

    With channels last each pass pays for the order of the weights, which few images do not win back: VGG-16 is slower
    below 32 images, the small CNN at no batch.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        large = sum(p.numel() for p in network.parameters()) >= _LARGE
        self.few = copy.deepcopy(network) if large else None
        self.many = network.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        if self.few is not None and len(x) < _MANY:
            logits: Tensor = self.few(x.contiguous())
        else:
            logits = self.many(x.contiguous(memory_format=torch.channels_last))
        return logits


def fast_copy(network: nn.Module, x: Tensor) -> nn.Module | None:
    """A copy that computes the same logits up to rounding, or None if there is none to be had.

    Args:
        network: Network in eval mode, which stays as it is.
        x: Some images, (N, C, H, W), on which the copy is compared with it.
    """
    if not any(isinstance(module, nn.Conv2d) for module in network.modules()):
        return None
    try:
        fast = copy.deepcopy(network)
    except (RuntimeError, TypeError, ValueError):  # a network that holds graph tensors or handles cannot be copied
        return None
    with torch.no_grad():
        own = network(x)
        if not torch.equal(own, network(x)):
            return None  # it draws noise, and its modules may count their draws
        for conv, norm in _folds(fast, x):
            were = [(name, fast.get_submodule(name)) for name in (conv, norm)]
            _fold(fast, conv, norm)
            if not _close(fast(x[:1]), own[:1]):  # what the convolution makes goes elsewhere too
                for name, module in were:
                    fast.set_submodule(name, module)
        for path, layer in list(fast.named_modules()):
            if isinstance(layer, nn.Conv2d) and ImageConv.fits(layer):
                fast.set_submodule(path, ImageConv(layer))
        fast = _Copy(fast).eval()
        return fast if _close(fast(x), own) else None


def _close(logits: Tensor, own: Tensor) -> bool:
    return bool((logits - own).abs().max() <= _TOLERANCE * own.abs().max().clamp(min=1.0))


def _folds(network: nn.Module, x: Tensor) -> list[tuple[str, str]]:
    """Names of convolutions, each with the batch normalisation that takes its output and nothing else's."""
    made: dict[int, str] = {}  # convolution by the identity of its output
    kept: list[Tensor] = []  # so that no identity is used again
    calls: dict[str, int] = {}
    pairs: list[tuple[str, str]] = []

    def watch(name: str) -> Callable[..., None]:
        def after(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            calls[name] = calls.get(name, 0) + 1
            if type(module) is nn.Conv2d:
                made[id(output)] = name
                kept.append(output)
            elif inputs and id(inputs[0]) in made and module.running_mean is not None:
                pairs.append((made[id(inputs[0])], name))

        return after

    handles = [
        module.register_forward_hook(watch(name))
        for name, module in network.named_modules()
        if type(module) in (nn.Conv2d, nn.BatchNorm2d)
    ]
    try:
        network(x[:1])
    finally:
        for handle in handles:
            handle.remove()
    return [pair for pair in pairs if calls[pair[0]] == calls[pair[1]] == 1]


def _fold(network: nn.Module, conv: str, norm: str) -> None:
    convolution, normalisation = network.get_submodule(conv), network.get_submodule(norm)
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(normalisation, nn.BatchNorm2d)
    network.set_submodule(conv, fuse_conv_bn_eval(convolution, normalisation))
    network.set_submodule(norm, nn.Identity())
