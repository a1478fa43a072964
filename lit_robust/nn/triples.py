"""Convolutions of a network with the normalisation and the activation that follow each, seen in a forward pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lit_robust import sampling
from lit_robust.errors import UserError
from lit_robust.modes import network_mode

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm)
_WHOLE = (nn.Conv2d, *_NORMS)  # modules whose inside is of no interest
_POOLS = ("max_pool2d", "adaptive_max_pool2d")
# Functions, and with an underscore their forms in place, that leave numbers of 0 and above as they are.
_ACTIVATIONS = ("relu", "leaky_relu", "prelu", "rrelu", "elu", "celu")
_ADDITIONS = ("add", "add_")


@dataclass(frozen=True, kw_only=True, eq=False)
class Triple:
    """A convolution, the normalisation and the activation that alone follow it.

    Attributes:
        name: Name of the convolution.
        conv: The convolution.
        map_size: Height and width of its feature maps.
        norm: The normalisation, or None if there is none.
        in_place: Whether the activation overwrites what comes out of the convolution, or of the normalisation.
        activation: The module that overwrites, if it is one that can be told not to.
    """

    name: str
    conv: nn.Conv2d
    map_size: tuple[int, int]
    norm: nn.Module | None
    in_place: bool
    activation: nn.Module | None


def find_triples(network: nn.Module, image_shape: Sequence[int]) -> tuple[list[Triple], dict[str, str]]:
    """Tries a network in eval mode on blank images and follows the output of each convolution.

    A triple is a convolution that runs once, whose output nothing takes but a normalisation module, or nothing if there
    is none, and then an activation that leaves non-negative numbers as they are: ReLU, leaky ReLU, PReLU, RReLU, ELU or
    CELU, as a module or as a function. The normalisation may also come right after the activation. A max-pool before
    the activation is looked through, since it may as well come after. The network stays as it is, its mode, statistics
    and hooks too, and so do the states of random generators.

    Args:
        network: Any module.
        image_shape: (C, H, W) of what it takes.

    Returns:
        The triples in the order of execution, and by name why each other convolution is none.

    Raises:
        UserError: If the network does not take such images.
    """
    calls = _recorded(network, image_shape)
    names = {module: name for name, module in network.named_modules()}
    runs = Counter(call.module for call in calls if call.module is not None)
    triples: list[Triple] = []
    left: dict[str, str] = {}
    for call in calls:
        if isinstance(call.module, nn.Conv2d):
            found = _judged(call, names[call.module], call.module, runs)
            if isinstance(found, Triple):
                triples.append(found)
            else:
                left[names[call.module]] = found
    unseen = [m for m in names if isinstance(m, nn.Conv2d) and m not in runs]
    return triples, left | {names[module]: "does not run" for module in unseen}


@dataclass(kw_only=True, eq=False)
class _Call:
    """A call of a convolution or a normalisation, or of a function outside them.

    Attributes:
        what: Name of the function, or of the module's class.
        module: The module, if it is one that was called.
        caller: The innermost module that was running.
        in_place: Whether an argument came back.
        shape: Shape of the first tensor that came out.
        followers: The calls that took what came out, each once.
    """

    what: str
    module: nn.Module | None
    caller: nn.Module | None
    in_place: bool
    shape: torch.Size
    followers: list[_Call] = field(default_factory=list)


class _Recorder(TorchFunctionMode):
    """Keeps who takes whose output."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[_Call] = []
        self._running: list[nn.Module] = []
        self._giver: dict[int, _Call] = {}  # by the id of a tensor, the call that wrote it last
        self._alive: list[Tensor] = []  # so that no id is given twice

    @contextmanager
    def watching(self, network: nn.Module) -> Iterator[None]:
        """Calls inside are recorded."""
        handles = []
        try:
            for module in network.modules():
                handles.append(module.register_forward_pre_hook(self._enter))
                handles.append(module.register_forward_hook(self._leave, with_kwargs=True))
            with self:
                yield
        finally:
            for handle in handles:
                handle.remove()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", str(func))
        given = [args[0]] if name == "__setitem__" else result
        self.add(name, (args, kwargs), given)
        return result

    def _enter(self, module: nn.Module, args: Any) -> None:  # noqa: ANN401
        self._running.append(module)

    def _leave(self, module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:  # noqa: ANN401
        self._running.pop()
        if isinstance(module, _WHOLE):
            self.add(type(module).__name__, (args, kwargs), result, module)

    def add(self, what: str, taken: Any, given: Any, module: nn.Module | None = None) -> None:  # noqa: ANN401
        """Adds a call that gave tensors; what runs inside a convolution or a normalisation is a part of it."""
        outputs, inputs = list(_tensors(given)), list(_tensors(taken))
        if not outputs or any(isinstance(outer, _WHOLE) for outer in self._running):
            return
        call = _Call(
            what=what,
            module=module,
            caller=self._running[-1] if self._running else None,
            in_place=any(one is other for one in inputs for other in outputs),
            shape=outputs[0].shape,
        )
        for giver in dict.fromkeys(self._giver[id(tensor)] for tensor in inputs if id(tensor) in self._giver):
            giver.followers.append(call)
        self._giver |= {id(tensor): call for tensor in outputs}
        self._alive += outputs
        self.calls.append(call)


def _recorded(network: nn.Module, image_shape: Sequence[int]) -> list[_Call]:
    shape = "x".join(map(str, image_shape))
    parameter = next(network.parameters(), torch.empty(0))
    x = torch.zeros(2, *image_shape, dtype=parameter.dtype, device=parameter.device)
    key = sampling.keys(torch.arange(2, device=x.device))
    recorder = _Recorder()
    try:
        with (
            torch.random.fork_rng(devices=[]),
            torch.no_grad(),
            network_mode(network, train=False),
            sampling.keyed(key),
            recorder.watching(network),
        ):
            logits = network(x)
            recorder.add("the network's output", logits, logits)
    except (ValueError, RuntimeError, TypeError, IndexError) as error:
        name = type(network).__name__
        raise UserError(f"{name} does not take {shape} images: {error}; set image_shape to what it takes") from error
    return recorder.calls


def _judged(call: _Call, name: str, conv: nn.Conv2d, runs: Counter[nn.Module]) -> Triple | str:
    """The triple of a convolution's call, or why there is none."""
    if runs[conv] > 1:
        return f"runs {runs[conv]} times in a forward pass"
    if not any(parameter.requires_grad for parameter in conv.parameters()):
        return "is frozen"
    norm, at = None, call
    while (follower := _only(at)) is not None and follower.what.removesuffix("_") not in _ACTIVATIONS:
        if isinstance(follower.module, _NORMS) and norm is None:
            norm = follower.module
        elif follower.what not in _POOLS:
            return f"followed by {_what(follower)}"
        at = follower
    if follower is None:
        return f"followed by {_several(at)}"
    after = _only(follower)
    if norm is None and after is not None and isinstance(after.module, _NORMS):
        norm = after.module
    if norm is not None and runs[norm] > 1:
        return "followed by a normalisation that runs more than once"
    activation = follower.caller if getattr(follower.caller, "inplace", False) is True else None
    if follower.in_place and activation is None and at is call:
        return f"followed by {follower.what} in place, called as a function"
    size = (call.shape[-2], call.shape[-1])
    return Triple(name=name, conv=conv, map_size=size, norm=norm, in_place=follower.in_place, activation=activation)


def _only(call: _Call) -> _Call | None:
    return call.followers[0] if len(call.followers) == 1 else None


def _several(call: _Call) -> str:
    if any(follower.what in _ADDITIONS for follower in call.followers):
        return _what(next(follower for follower in call.followers if follower.what in _ADDITIONS))
    return " and ".join(dict.fromkeys(_what(follower) for follower in call.followers)) or "nothing that was seen"


def _what(call: _Call) -> str:
    return "an addition" if call.what in _ADDITIONS else call.what


def _tensors(nested: Any) -> Iterator[Tensor]:  # noqa: ANN401
    """The tensors in nested sequences and mappings."""
    if isinstance(nested, Tensor):
        yield nested
    elif isinstance(nested, dict):
        yield from _tensors(list(nested.values()))
    elif isinstance(nested, list | tuple):
        for item in nested:
            yield from _tensors(item)
