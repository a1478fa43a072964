"""A tensor that is known up to an interval for each entry, and that layers and torch functions take like a tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor

from lit_robust.errors import UserError

Rule = Callable[[Callable[..., Any], Sequence[Any], Mapping[str, Any]], "Box"]
RULES: dict[str, Rule] = {}  # by the name of the function or method, filled by `lit_robust.bounds.rules`
_OPERATORS = ("add", "radd", "iadd", "sub", "rsub", "isub", "mul", "rmul", "truediv", "neg", "getitem")


class Box:
    """All tensors between two, entry by entry, followed through a network's own forward pass.

    It needs no tracing: torch hands every function that meets one to `__torch_function__`, which looks up a rule by the
    function's name. Shapes are real, so a network may look at them.

    Args:
        lower: Least value of each entry, (N, ...).
        upper: Largest value of each entry, of the same shape, in memory of its own.
        rounding: Unit roundoff of the network that the bounds shall hold for; see `interval`.
        head: The linear layer that it came out of, or None.

    Attributes:
        differentiated: Whether gradients were on when it was made.
    """

    def __init__(self, lower: Tensor, upper: Tensor, *, rounding: float = 0.0, head: Head | None = None) -> None:
        self.lower, self.upper, self.rounding, self.head = lower, upper, rounding, head
        self.differentiated = torch.is_grad_enabled()

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - torch's protocol
        return apply(func.__name__, func, args, kwargs or {})

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - a tensor's methods
        if name.startswith("_"):
            raise AttributeError(name)
        if name not in RULES:
            refuse(name)
        return partial(_method, name, getattr(Tensor, name), self)

    def __bool__(self) -> NoReturn:
        refuse("a decision by values")

    @property
    def shape(self) -> torch.Size:
        """Shape of the tensor."""
        return self.lower.shape

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return self.lower.ndim

    @property
    def dtype(self) -> torch.dtype:
        """Type of the bounds."""
        return self.lower.dtype

    @property
    def device(self) -> torch.device:
        """Device of the bounds."""
        return self.lower.device

    def dim(self) -> int:
        """Number of dimensions."""
        return self.lower.ndim

    def size(self, dim: int | None = None) -> Any:  # noqa: ANN401 - as a tensor's
        """Shape of the tensor, or the size of a dimension."""
        return self.shape if dim is None else self.shape[dim]

    def centre_and_radius(self) -> tuple[Tensor, Tensor]:
        """Middle and half width of each entry's interval."""
        return (self.lower + self.upper) / 2, (self.upper - self.lower) / 2

    def magnitude(self) -> Tensor:
        """Largest absolute value of each entry."""
        return torch.maximum(self.lower.abs(), self.upper.abs())

    def made(self, lower: Tensor, upper: Tensor, slack: Tensor | None = None, head: Head | None = None) -> Box:
        """The box that an operation makes of this one, widened by `slack`."""
        if slack is not None:
            lower, upper = lower - slack, upper + slack
        return Box(lower, upper, rounding=self.rounding, head=head)

    def gamma(self, terms: int) -> float:
        """Largest relative error of a sum of so many products: n·u / (1 − n·u) (Higham, 2002, Lemma 3.1)."""
        error = terms * self.rounding
        if error >= 0.5:
            raise UserError(f"a sum of {terms:,} products says nothing at a unit roundoff of {self.rounding:g}")
        return error / (1 - error)


class Head:
    """A linear layer and what went into it, for whoever wants differences of its outputs.

    Args:
        source: Input of the layer, (N, features).
        weight: Weight, (outputs, features).
        bias: Bias, (outputs,), or None.
    """

    def __init__(self, source: Box, weight: Tensor, bias: Tensor | None) -> None:
        self.source, self.weight, self.bias = source, weight, bias


def apply(name: str, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """What a function makes of boxes.

    Raises:
        UserError: If there is no rule for it, or gradients are cut on the way.
    """
    plain = name.removeprefix("__").removesuffix("__")
    if plain not in RULES:
        refuse(plain)
    if not torch.is_grad_enabled() and any(box.differentiated for box in boxes([*args, *kwargs.values()])):
        raise UserError(
            f"{plain} runs without gradients inside a network whose bounds are differentiated: a layer with a backward "
            "pass of its own has no interval bound; take the bounds under torch.no_grad(), or of the stages around it"
        )
    return RULES[plain](func, args, kwargs)


def boxes(values: Sequence[Any]) -> list[Box]:
    """The boxes among the arguments of a function, also those in lists."""
    found = [box for value in values if isinstance(value, list | tuple) for box in boxes(value)]
    return [value for value in values if isinstance(value, Box)] + found


def refuse(name: str) -> NoReturn:
    """Refuses an operation without a rule.

    Raises:
        UserError: Always, with what there is.
    """
    public = sorted(n for n in RULES if n not in _OPERATORS and not n.endswith("_"))
    raise UserError(f"there is no interval bound for {name!r}; there is one for {', '.join(public)}")


def _method(name: str, func: Callable[..., Any], box: Box, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
    return apply(name, func, (box, *args), kwargs)


def _operator(name: str) -> Callable[..., Any]:
    def run(box: Box, *args: Any) -> Any:  # noqa: ANN401 - an operand
        return apply(name, getattr(Tensor, f"__{name}__"), (box, *args), {})

    return run


for _name in _OPERATORS:
    setattr(Box, f"__{_name}__", _operator(_name))
