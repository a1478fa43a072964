"""Which layers partial training keeps and which it trains again, and how it freezes and reinitialises them."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lit_robust.errors import UserError
from lit_robust.layer_order import layer_order, named_layer, position

Code = Literal["A1N2", "N1A2", "A2N1", "N2A1", "N1N2", "A1A2", "N2N1", "A2A1"]
Kind = Literal["A", "N"]  # adversarial, natural
CODES: tuple[Code, ...] = ("A1N2", "N1A2", "A2N1", "N2A1", "N1N2", "A1A2", "N2N1", "A2A1")


def stage_kind(code: Code, stage: Literal[1, 2]) -> Kind:
    """How a stage trains, A or N: the letter before its number in a code."""
    return "A" if code[code.index(str(stage)) - 1] == "A" else "N"


@dataclass(frozen=True)
class PartialLayers:
    """The layers of a network as partial training divides them, each in the order of `layer_order`.

    Attributes:
        kept: Names of the layers that stay as the first stage left them.
        retrained: Names of the layers that the second stage trains again.
    """

    kept: tuple[str, ...]
    retrained: tuple[str, ...]

    @contextmanager
    def frozen(self, network: nn.Module) -> Iterator[None]:
        """Context in which the parameters of `kept` need no gradient, so that none is computed; afterwards as before.

        Batch normalisation is not frozen otherwise: in train mode its running statistics move.
        """
        parameters = self.frozen_parameters(network)
        for parameter in parameters:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in parameters:
                parameter.requires_grad_(True)

    def frozen_parameters(self, network: nn.Module) -> list[nn.Parameter]:
        """Parameters of `kept`, without those that do not train anyway."""
        return [p for name in self.kept for p in _parameters(network, name) if p.requires_grad]

    def reinitialise(self, network: nn.Module, seed: int) -> None:
        """Gives `retrained` new parameters by each layer's `reset_parameters`, and new running statistics.

        What a layer gets depends on the seed and the layer's name alone, not on the cutoff or the device.

        Args:
            network: The network, changed in place.
            seed: Seed of the run.
        """
        for name in self.retrained:
            _reinitialise(network.get_submodule(name), seed=seed, name=name)


def partial_layers(
    network: nn.Module, code: Code, *, cutoff: int | str | None = None, layer: int | str | None = None
) -> PartialLayers:
    """Divides a network as a code and a cutoff, or a single layer, say.

    With x1y2 the layers before the cutoff are kept, with x2y1 those from it on. Parameters that do not train from the
    start, such as those of a frozen front end, belong to the network and are neither retrained nor reinitialised.

    Args:
        network: The network as it was built.
        code: The code.
        cutoff: See `layer_order.position`.
        layer: The one layer that is retrained; see `layer_order.named_layer`.

    Raises:
        UserError: If not just one of `cutoff` and `layer` is given, it names no layer, the code does not fit, a side
            has nothing that trains, a retrained layer cannot be reinitialised, or a parameter belongs to both sides.
    """
    if code not in CODES:
        raise UserError(f"expected a code of {', '.join(CODES)}, got {code!r}")
    if (cutoff is None) == (layer is None):
        raise UserError(f"expected either a cutoff or a layer, got cutoff={cutoff} and layer={layer}")
    order, early_first = layer_order(network), code[1] == "1"
    if layer is not None:
        if early_first:
            other = code[2] + "2" + code[0] + "1"
            raise UserError(
                f"a single layer is retrained by a code x2y1, whose x is the training of that layer: expected A2N1, "
                f"N2A1, A2A1 or N2N1, got {code}; perhaps {other} is meant"
            )
        retrained = [named_layer(network, layer)]
    else:
        number = position(network, cutoff if cutoff is not None else 0)
        retrained = order[number:] if early_first else order[:number]
    fixed = set(_fixed(network, order))
    layers = PartialLayers(
        kept=tuple(name for name in order if name not in retrained),
        retrained=tuple(name for name in retrained if name not in fixed),
    )
    _check(network, layers, fixed, code)
    return layers


def _check(network: nn.Module, layers: PartialLayers, fixed: set[str], code: Code) -> None:
    sides = {"retrained": layers.retrained, "kept": [name for name in layers.kept if name not in fixed]}
    for side, names in sides.items():
        if not names:
            raise UserError(
                f"{code} at this place leaves no layer to be {side}: those on that side are frozen in the network "
                f"itself ({', '.join(sorted(fixed))})"
            )
    stuck = [n for n in layers.retrained if not callable(getattr(network.get_submodule(n), "reset_parameters", None))]
    if stuck:
        kind = type(network.get_submodule(stuck[0])).__name__
        raise UserError(
            f"{stuck[0]} ({kind}) cannot be reinitialised: it has no method `reset_parameters`. Choose a place that "
            "keeps it, or freeze it in the network"
        )
    owners = {id(p): name for name in layers.kept for p in _parameters(network, name)}
    for name in layers.retrained:
        shared = next((owners[id(p)] for p in _parameters(network, name) if id(p) in owners), None)
        if shared is not None:
            raise UserError(
                f"{shared} and {name} share a parameter, so one cannot be kept while the other is retrained"
            )


def _parameters(network: nn.Module, name: str) -> list[nn.Parameter]:
    return list(network.get_submodule(name).parameters(recurse=False))


def _fixed(network: nn.Module, order: Sequence[str]) -> Iterator[str]:
    """Layers that do not train from the start: they, or a module around them, have parameters, and none that trains."""
    for name in order:
        parts = name.split(".")
        around = [network.get_submodule(".".join(parts[:n])) for n in range(1, len(parts) + 1)]
        learns = [[p.requires_grad for p in module.parameters()] for module in around]
        if any(flags and not any(flags) for flags in learns):
            yield name


def _reinitialise(layer: nn.Module, *, seed: int, name: str) -> None:
    # On a copy on the CPU, so that every device gets the same numbers.
    fresh = copy.deepcopy(layer).to("cpu")
    reset: Callable[[], None] = fresh.reset_parameters  # type: ignore[assignment]
    digest = hashlib.sha256(f"reinitialise {seed} {name}".encode()).digest()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int.from_bytes(digest[:7], "big"))
        reset()
    with torch.no_grad():
        for own, new in zip(_tensors(layer), _tensors(fresh), strict=True):
            own.copy_(new)


def _tensors(layer: nn.Module) -> list[Tensor]:
    return [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]
