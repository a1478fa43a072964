"""The rules of entry of RobustBench (Croce et al., 2021, section 3.1), each measured on a network.

A model on that list has a deterministic forward pass, gradients in the image that are in general not zero, and no
optimisation loop at test time: defenses without these make gradient attacks fail without being robust.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lit_robust.attacks.base import searching
from lit_robust.backward import EXACT, SurrogateLayer, chosen
from lit_robust.losses import cross_entropy, margin
from lit_robust.sampling import Noise, keys

# "In general": more zero gradients than this share of the images, and the figure of a gradient attack is no longer
# that of the model. The audit fails at the same share.
ZERO = 0.05

DETERMINISTIC, GRADIENTS, NO_LOOP = "deterministic", "non_zero_gradients", "no_inner_optimisation"
_BACKWARD = (torch.autograd.grad, torch.autograd.backward, Tensor.backward)
_SEEDS = (1, 2)  # of torch's generator in the two passes that are compared


def entry_rules(network: nn.Module, x: Tensor) -> dict[str, dict[str, Any]]:
    """Each rule by name: whether the network breaks it, and what was measured.

    Args:
        network: Images in [0, 1] to logits, in eval mode.
        x: Images, (N, C, H, W).
    """
    return {
        DETERMINISTIC: _deterministic(network, x),
        GRADIENTS: _gradients(network, x),
        NO_LOOP: _inner_optimisation(network, x),
    }


def _deterministic(network: nn.Module, x: Tensor) -> dict[str, Any]:
    """Two passes of the same images, as a user would run them: random layers draw from torch's generator."""
    outs = []
    for seed in _SEEDS:
        with _generator(seed), torch.no_grad():
            outs.append(network(x))
    share = float((outs[0] != outs[1]).any(1).double().mean())
    return {
        "broken": share > 0,
        "images": len(x),
        "share_with_other_logits": share,
        "how": "two forward passes of the same images",
    }


def _gradients(network: nn.Module, x: Tensor) -> dict[str, Any]:
    """The gradient of the margin of the predicted class: that of the cross-entropy may vanish by rounding alone.

    A layer that replaces its backward pass is measured with its exact one, which is the network's true gradient.
    """
    own = {name: layer.backward_pass for name, layer in _surrogates(network)}
    exact = {f"0.{name}".rstrip("."): EXACT for name, layer in _surrogates(network) if EXACT in layer.offered}
    shares = {}
    with chosen(nn.Sequential(network), exact):  # so that the network itself has a name
        true = _zero(network, x, margin)
    shares["share_zero"] = true
    if exact:
        shares["share_zero_with_own_backward_passes"] = _zero(network, x, margin)
    shares["share_zero_cross_entropy"] = _zero(network, x, cross_entropy)
    return {
        "broken": true > ZERO,
        "images": len(x),
        **shares,
        **({"replaced_backward_passes": own} if own else {}),
        "how": "exact gradient of the margin of the predicted class in the image",
    }


def _zero(network: nn.Module, x: Tensor, loss: Any) -> float:  # noqa: ANN401 - a function of logits and labels
    at = x.detach().clone().requires_grad_()
    with _generator(_SEEDS[0]), searching(network), Noise(keys(torch.arange(len(x)))).keyed():
        logits = network(at)
        value = loss(logits, logits.detach().argmax(1)).sum()
        gradient = torch.autograd.grad(value, at, allow_unused=True)[0] if value.requires_grad else None
    return 1.0 if gradient is None else float((gradient.flatten(1) == 0).all(1).double().mean())


def _surrogates(network: nn.Module) -> Iterator[tuple[str, SurrogateLayer]]:
    for name, layer in network.named_modules():
        if isinstance(layer, SurrogateLayer) and layer.backward_pass != EXACT:
            yield name, layer


class _Watch(TorchFunctionMode):
    """Counts calls of autograd from Python."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_function__(  # the signature is torch's
        self,
        func: Any,  # noqa: ANN401
        types: Sequence[type],
        args: Any = (),  # noqa: ANN401
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        self.calls += func in _BACKWARD
        return func(*args, **(kwargs or {}))


def _inner_optimisation(network: nn.Module, x: Tensor) -> dict[str, Any]:
    with _generator(_SEEDS[0]), searching(network), _Watch() as watch:
        network(x)
    return {
        "broken": watch.calls > 0,
        "autograd_calls": watch.calls,
        "how": "calls of torch.autograd.grad and backward inside a forward pass; a loop that writes its own gradients "
        "is not seen",
    }


@contextmanager
def _generator(seed: int) -> Iterator[None]:
    """Context with a seed of torch's generator, which is afterwards as before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
