"""Reads the inputs and outputs of layers, chosen by patterns of their names, during a forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import TracebackType

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lit_robust import sampling
from lit_robust.errors import UserError
from lit_robust.modes import network_mode


@dataclass(frozen=True)
class Tap:
    """What one layer saw.

    Attributes:
        layer: The layer.
        input: Its input.
        output: Its output.
    """

    layer: nn.Module
    input: Tensor
    output: Tensor

    def local(self) -> Tensor:
        """The output computed again from the detached input: gradients of it stay in this layer."""
        output: Tensor = self.layer(self.input.detach())
        return output


def layer_names(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Names of the layers that match any of the patterns, in the order of the model.

    Args:
        model: Any module.
        patterns: Names of modules, with `*`, `?` and `[...]` as in file names.

    Raises:
        UserError: If a pattern matches no layer; lists those that there are.
    """
    names = [name for name, _ in model.named_modules() if name]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(f"no layer matches {pattern!r}; {type(model).__name__} has {', '.join(names)}")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def convolutions(model: nn.Module) -> list[str]:
    """Names of the 2-D convolutions, in the order of the model.

    Args:
        model: Any module.

    Raises:
        UserError: If there is none.
    """
    names = [name for name, module in model.named_modules() if name and isinstance(module, nn.Conv2d)]
    if not names:
        raise UserError(f"{type(model).__name__} has no 2-D convolution; name the layers that are meant")
    return names


def trial(model: nn.Module, patterns: Sequence[str], image_shape: Sequence[int]) -> dict[str, Tap]:
    """What layers see of an image of random pixels, by name, in the order in which they run first.

    Says before any work which layers a forward pass reaches and what shapes they have. The model's mode and torch's
    generator stay as they are.

    Args:
        model: Images to logits.
        patterns: See `layer_names`.
        image_shape: (C, H, W) of the images.

    Raises:
        UserError: If a pattern matches no layer.
    """
    parameter = next(model.parameters(), torch.empty(0))
    x = torch.rand(1, *image_shape, generator=torch.Generator().manual_seed(0)).to(parameter)
    key = sampling.keys(torch.zeros(1, dtype=torch.int64, device=x.device))
    with Taps(model, patterns) as taps, network_mode(model, train=False), torch.no_grad(), sampling.keyed(key):
        model(x)
    return {name: taps[name] for name in taps.ran}


class Taps:
    """Context in which layers keep their last input and output.

    `with Taps(model, ["features.*"]) as taps: model(x)`, then `taps["features.0"].output`. No hook stays behind.

    Args:
        model: Any module.
        patterns: See `layer_names`.

    Raises:
        UserError: If a pattern matches no layer.
    """

    def __init__(self, model: nn.Module, patterns: Sequence[str]) -> None:
        self._model = model
        self.names = layer_names(model, patterns)
        self._taps: dict[str, Tap] = {}

    def __enter__(self) -> Taps:
        def keeper(name: str, layer: nn.Module) -> None:
            def keep(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
                self._taps[name] = Tap(layer, args[0], output)

            self._handles.append(layer.register_forward_hook(keep))

        self._handles: list[RemovableHandle] = []
        for name in self.names:
            keeper(name, self._model.get_submodule(name))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()

    @property
    def ran(self) -> list[str]:
        """Names of the layers that have run, in the order of their first runs."""
        return list(self._taps)

    def __getitem__(self, name: str) -> Tap:
        """What the layer of that name saw last.

        Raises:
            KeyError: If it was not tapped, or has not run.
        """
        if name not in self._taps:
            raise KeyError(f"{name!r} was not tapped or has not run; taps that ran: {', '.join(self._taps) or 'none'}")
        return self._taps[name]
