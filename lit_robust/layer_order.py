"""The layers of a network in one line, and places in it at which partial training cuts the network in two."""

from __future__ import annotations

from difflib import SequenceMatcher

from torch import nn

from lit_robust.backward import matching
from lit_robust.errors import UserError


def layer_order(network: nn.Module) -> list[str]:
    """Names of the layers that hold parameters or running statistics, in the linear order of appendix A.

    It is the order in which a network registers its modules. In `CIFARResNet18` that is the order of the dissertation:
    a block's main branch, then its shortcut's convolution and normalisation, so 41 layers from `conv1` to `linear`. In
    `VGG16` it is the order of execution. A network of anybody's has the order of its constructor, so modules are best
    registered in the order in which they run.

    Args:
        network: Any module. The names are those of `named_modules`, with what wrappers such as `Pipeline` put in front.
    """
    return [name for name, module in network.named_modules() if name and _holds_state(module)]


def position(network: nn.Module, cutoff: int | str) -> int:
    """Number of layers that lie before a cutoff, in [1, layers − 1].

    Args:
        network: Any module.
        cutoff: That number (in digits if it is a text), or the name of the layer that it lies before, without the parts
            that wrappers put in front (see `backward.matching`). A layer without parameters may be named too:
            `features.2` of `VGG16`, a ReLU, is the cutoff before `features.3`, and `layer2` the one before its first
            layer.

    Raises:
        UserError: If there is no such layer, or all layers would lie on one side of the cutoff.
    """
    order = layer_order(network)
    number = _number(cutoff)
    if number is None:
        names = [name for name, _ in network.named_modules()]
        behind = names[names.index(_whole_name(network, str(cutoff))) :]
        number = sum(name not in behind for name in order)
    if 0 < number < len(order):
        return number
    name = type(network).__name__
    if len(order) < 2:
        raise UserError(f"a cutoff has layers on both sides, and {name} has {len(order)} of them")
    side = "before" if number <= 0 else "behind"
    raise UserError(
        f"cutoff {cutoff}: no layer of {name} lies {side} it. The end points on both sides are networks that were "
        "trained in one way throughout, natural or adversarial: they are the runs of stage one, and nothing of them is "
        f"retrained. Expected a number from 1 to {len(order) - 1}, or a name from {order[1]} to {order[-1]}"
    )


def named_layer(network: nn.Module, layer: int | str) -> str:
    """Whole name of one layer of `layer_order`.

    Args:
        network: Any module.
        layer: Its name as for `position`, that of a module with this one layer inside, or the number of layers before
            it, from 0.

    Raises:
        UserError: If it is no layer with parameters or running statistics, or is several.
    """
    order = layer_order(network)
    number = _number(layer)
    if number is not None:
        if not 0 <= number < len(order):
            raise UserError(f"layer {layer}: {type(network).__name__} has layers 0 to {len(order) - 1}, {_list(order)}")
        return order[number]
    whole = _whole_name(network, str(layer))
    if whole in order:
        return whole
    inside = [name for name in order if name.startswith(f"{whole}.")]
    if len(inside) != 1:
        what = f"holds {len(inside)} layers, {_list(inside)}" if inside else "has no parameters or running statistics"
        raise UserError(
            f"expected the name of one layer, got {layer!r}, which {what}; "
            f"the layers of {type(network).__name__} are {_list(order)}"
        )
    return inside[0]


def _holds_state(module: nn.Module) -> bool:
    """Whether a module itself, not one inside it, holds parameters or running statistics."""
    own = next(module.parameters(recurse=False), None)
    return own is not None or getattr(module, "running_mean", None) is not None


def _number(given: int | str) -> int | None:
    """The number that is given, perhaps in digits."""
    if isinstance(given, int):
        return given
    return int(given) if given.removeprefix("-").isdecimal() else None


def _whole_name(network: nn.Module, given: str) -> str:
    """The name in `named_modules` of the module that a name means."""
    try:
        found = list(matching(network, given))
    except UserError:
        order = layer_order(network)
        near = sorted(order, key=lambda name: -SequenceMatcher(None, given, name).ratio())[:3]
        raise UserError(
            f"no layer of {type(network).__name__} is called {given!r}; nearest are {_list(near)}. Its layers are, in "
            f"order, {_list(order)}"
        ) from None
    if len(found) > 1:
        raise UserError(f"{given!r} names {len(found)} layers; give the whole name of one of {_list(found)}")
    return found[0]


def _list(names: list[str]) -> str:
    return ", ".join(names)
