"""Backward passes of one's choice: what the gradient of a layer is taken to be, while its forward pass stays as it is.

A quantiser or a top-T has a gradient that is zero or misleads, so an attack on it replaces the backward pass alone
(BPDA, Athalye et al., 2018). A layer of this kind names the backward passes that it can take; no attack knows a layer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from fnmatch import fnmatchcase
from functools import partial
from importlib import import_module
from typing import Any, cast

import torch
from torch import Tensor, nn

from lit_robust import sampling
from lit_robust.errors import UserError

Backward = str | Callable[[Tensor], Tensor]
Soft = Callable[[nn.Module, Tensor], Tensor]  # from a layer and its input to what the gradient is taken from
_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")  # of a function that can be imported
EXACT = "exact"


class _ReplaceGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hard: Tensor, soft: Tensor) -> Tensor:  # noqa: ANN401 - torch's context
        return hard.view_as(hard)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:  # noqa: ANN401 - torch's context
        return None, grad


def replace_gradient(hard: Tensor, soft: Tensor) -> Tensor:
    """The value of `hard`, bit for bit, with the gradient of `soft`.

    `soft + (hard - soft).detach()` is not exact: rounding changes some of the values, and a quantiser is one no longer.

    Args:
        hard: What the layer gives; no gradient goes through it.
        soft: What its gradient is taken from, of the same shape.

    Raises:
        ValueError: If the shapes differ.
    """
    if hard.shape != soft.shape:
        raise ValueError(f"expected values and their surrogate of one shape, got {hard.shape} and {soft.shape}")
    return cast(Tensor, _ReplaceGradient.apply(hard.detach(), soft))


class SurrogateLayer(nn.Module):
    """A layer that names its backward passes, of which one is in force at a time.

    A name may have a number, as in `smooth(4)`: `offered` then lists the numbers worth a trial, and any other is
    allowed. A subclass reads `self.kind` and `self.number` in its forward pass.

    Args:
        backward: The backward pass in force; None for the first of `offered`.

    Attributes:
        offered: Backward passes that an evaluation should try, the default first.
        opaque: Kinds that replace the backward pass of everything inside, so that choices inside do not matter.

    Raises:
        UserError: If the layer has no such backward pass.
    """

    offered: Sequence[str] = ("exact",)
    opaque: frozenset[str] = frozenset()

    def __init__(self, *, backward: str | None = None) -> None:
        super().__init__()
        self.backward_pass = self.offered[0] if backward is None else backward

    @property
    def backward_pass(self) -> str:
        """The backward pass in force."""
        return self._backward_pass

    @backward_pass.setter
    def backward_pass(self, name: str) -> None:
        """Puts a backward pass into force."""
        kind, number = self.read(name)
        self._backward_pass, self.kind, self.number = name, kind, 0.0 if number is None else number

    def read(self, name: str) -> tuple[str, float | None]:
        """Kind and number of a backward pass.

        Raises:
            UserError: If the layer has no such backward pass.
        """
        kind, number = _parsed(name)
        offered = {_parsed(each)[0]: _parsed(each)[1] is not None for each in self.offered}
        if kind not in offered or offered[kind] != (number is not None):
            raise UserError(
                f"{type(self).__name__} has no backward pass {name!r}; it has {', '.join(self.offered)}"
                + (" (or another number)" if any(offered.values()) else "")
            )
        return kind, number


def _parsed(name: str) -> tuple[str, float | None]:
    """Kind and number of a backward pass: `smooth(4)` is ("smooth", 4.0), `identity` is ("identity", None)."""
    kind, bracket, rest = name.partition("(")
    if not bracket:
        return kind, None
    try:
        return kind, float(rest.removesuffix(")"))
    except ValueError:
        raise UserError(f"expected a backward pass such as identity or smooth(4), got {name!r}") from None


def matching(model: nn.Module, pattern: str) -> dict[str, nn.Module]:
    """The layers that a pattern names, by their whole names, in the order of the model.

    What wraps a network puts `model.` or `network.` in front of its names. So a name also fits without its first parts,
    with as few of them left out as any layer fits with: the same layers are meant, wrapped or not.

    Args:
        model: Any module.
        pattern: The name of a layer, with `*`, `?` and `[...]` as in file names; `*` also stands for dots.

    Raises:
        UserError: If it names no layer; lists those that there are.
    """
    layers = {name: layer for name, layer in model.named_modules() if name}
    for depth in range(1 + max((name.count(".") for name in layers), default=-1)):
        left = {name: name.split(".", depth)[depth] for name in layers if name.count(".") >= depth}
        found = [name for name, rest in left.items() if rest == pattern or fnmatchcase(rest, pattern)]
        if found:
            return {name: layers[name] for name in found}
    raise UserError(f"no layer matches {pattern!r}; {type(model).__name__} has {', '.join(layers) or 'no layers'}")


@contextmanager
def chosen(model: nn.Module, backward: Mapping[str, Backward]) -> Iterator[None]:
    """Context in which layers have backward passes of one's choice; afterwards, also after an error, their own again.

    A `SurrogateLayer` takes one of its own by name. Any other layer, from one tensor to one tensor, takes

    - `exact`: the one that it has;
    - `identity`: the gradient of its output is that of its input, of the same shape (straight through);
    - `smooth(h)`, for a layer that treats each entry on its own: the slope (f(x + h) − f(x − h)) / 2h, which is the
      exact gradient of the layer averaged over a box of half width h;
    - a function of its input with values of the output's shape, whose gradient is taken, or the import path of one.

    Forward passes stay as they are, bit for bit.

    Args:
        model: Any module; no layer of it is replaced.
        backward: Backward passes by patterns of names; see `matching`. The last pattern that names a layer counts.

    Raises:
        UserError: If a pattern names no layer, or a layer has no such backward pass.
    """
    ways = {name: way for pattern, way in backward.items() for name in matching(model, pattern)}
    layers = dict(model.named_modules())
    with ExitStack() as stack:
        for name, way in ways.items():
            stack.enter_context(_taking(name, layers[name], way))
        yield


def default(layer: nn.Module) -> str:
    """The backward pass that a layer has unless another is chosen: the first that it offers, or its own."""
    return layer.offered[0] if isinstance(layer, SurrogateLayer) else EXACT


def imported(path: str) -> Callable[[Tensor], Tensor] | None:
    """The function that an import path such as `package.module.function` names; None if it is no path.

    Raises:
        UserError: If it is one, and there is no such function.
    """
    if not _PATH.fullmatch(path):
        return None
    module, _, name = path.rpartition(".")
    try:
        function = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"expected a backward pass or the import path of a function, got {path!r}: {error}") from None
    if not callable(function):
        raise UserError(f"expected the import path of a function, got {path!r}, which is a {type(function).__name__}")
    return cast(Callable[[Tensor], Tensor], function)


def surrogate(name: str, layer: nn.Module, way: Backward) -> Soft | None:
    """What a layer's gradient is taken from; None if the layer itself has that backward pass.

    Raises:
        UserError: If the layer has no such backward pass.
    """
    function = imported(way) if isinstance(way, str) else way
    if function is not None:
        return partial(_through, function)
    assert isinstance(way, str)
    try:
        kind, number = layer.read(way) if isinstance(layer, SurrogateLayer) else _parsed(way)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    if isinstance(layer, SurrogateLayer) or (kind, number) == (EXACT, None):
        return None
    if (kind, number) == ("identity", None):
        return _identity
    if kind == "smooth" and number is not None and 0 < number < math.inf:
        return partial(_secant, number)
    raise UserError(
        f"{name}: {type(layer).__name__} takes {EXACT}, identity, smooth(h) with h above 0, or the import path of a "
        f"function as its backward pass, got {way!r}"
    )


def covers(layer: nn.Module, way: str) -> bool:
    """Whether a backward pass replaces those of all layers inside."""
    if isinstance(layer, SurrogateLayer) and not _PATH.fullmatch(way):
        return layer.read(way)[0] in layer.opaque
    return way != EXACT


@contextmanager
def _taking(name: str, layer: nn.Module, way: Backward) -> Iterator[None]:
    soft = surrogate(name, layer, way)
    if soft is not None:
        hooks = _Hooks(name, soft)
        handles = [layer.register_forward_pre_hook(hooks.before), layer.register_forward_hook(hooks.after)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
    elif isinstance(layer, SurrogateLayer):
        own, layer.backward_pass = layer.backward_pass, cast(str, way)
        try:
            yield
        finally:
            layer.backward_pass = own
    else:
        yield


class _Hooks:
    """Give the output of a layer the gradient of something else. Without a gradient to compute they do nothing."""

    def __init__(self, name: str, soft: Soft) -> None:
        self.name, self.soft = name, soft
        self.inputs: list[Tensor | None] = []  # of the calls that have begun; a layer may call itself

    def before(self, layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not args or not isinstance(args[0], Tensor):
            raise UserError(f"{self.name}: only a layer that is called with a tensor can take another backward pass")
        needed = torch.is_grad_enabled() and args[0].requires_grad
        self.inputs.append(args[0] if needed else None)
        return (args[0].clone(), *args[1:]) if needed else None  # for the layer may work in place

    def after(self, layer: nn.Module, args: tuple[Any, ...], out: object) -> Tensor | None:
        x = self.inputs.pop()
        if x is None:
            return None
        soft = self.soft(layer, x)
        if not isinstance(out, Tensor) or not out.is_floating_point() or out.shape != soft.shape:
            came = f"{tuple(out.shape)} of {out.dtype}" if isinstance(out, Tensor) else type(out).__name__
            shape = tuple(soft.shape)
            raise UserError(f"{self.name}: this backward pass needs float outputs of shape {shape}, got {came}")
        return replace_gradient(out, soft)


def _beside() -> AbstractContextManager[None]:
    """Random layers that run inside draw the same at every time, and leave those of the forward pass what they draw."""
    noise = sampling.current()
    return nullcontext() if noise is None else noise.keyed()


def _identity(layer: nn.Module, x: Tensor) -> Tensor:
    return x


def _through(function: Callable[[Tensor], Tensor], layer: nn.Module, x: Tensor) -> Tensor:
    with _beside():
        return function(x)


def _secant(width: float, layer: nn.Module, x: Tensor) -> Tensor:
    """The input times the layer's slope between both ends of a box around it."""
    ends = []
    with torch.no_grad():
        for end in (x + width, x - width):
            with _beside():
                ends.append(layer.forward(end))
    slope: Tensor = (ends[0] - ends[1]) / (2 * width)
    if slope.shape != x.shape:
        raise UserError(f"smooth(h) is for layers of one shape, got {tuple(x.shape)} to {tuple(slope.shape)}")
    return slope * x
