"""Interval bounds of single operations (Gowal et al., 2018, section 3).

What does not fall when an entry of its input grows is applied to both ends. What is affine is applied to the middle,
and with the absolute values of its weights to the half width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_robust.bounds.box import RULES, Box, Head, boxes, refuse
from lit_robust.errors import UserError

_SELECT = (
    "relu relu_ relu6 hardtanh clamp sign max_pool2d adaptive_max_pool2d amax flatten reshape view permute transpose "
    "squeeze unsqueeze getitem contiguous pad clone detach cat stack"
)  # exact in any precision
_AVERAGE = "avg_pool2d adaptive_avg_pool2d mean sum"
_SATURATE = "sigmoid tanh"
_DROPOUT = "dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout"
_FEW_ULPS = 4  # what sigmoid and tanh may be off by, in units of the last place


def _ends(func: Callable[..., Tensor], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Box:
    lower, upper = (func(*_at(end, args), **{k: _at(end, v) for k, v in kwargs.items()}) for end in ("lower", "upper"))
    return boxes([*args, *kwargs.values()])[0].made(lower, upper)


def _at(end: str, value: Any) -> Any:  # noqa: ANN401 - arguments of any function
    """The arguments of a function with one end of each box in its place."""
    if isinstance(value, list | tuple):
        return type(value)(_at(end, part) for part in value)
    return getattr(value, end) if isinstance(value, Box) else value


def _average(func: Callable[..., Tensor], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Box:
    (box,) = _only(func, args, kwargs)
    result = _ends(func, args, kwargs)
    if not box.rounding:
        return result
    spatial = box.shape[-1] * box.shape[-2] if box.ndim >= 2 else 1
    terms = max(spatial, box.lower.numel() // max(1, result.lower.numel())) + 1
    return box.made(result.lower, result.upper, box.gamma(terms) * func(box.magnitude(), *args[1:], **kwargs))


def _saturate(func: Callable[..., Tensor], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Box:
    result = _ends(func, args, kwargs)
    return result.made(result.lower, result.upper, _FEW_ULPS * result.rounding * result.magnitude())


def _leaky_relu(func: Callable[..., Tensor], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Box:
    slope = kwargs.get("negative_slope", args[1] if len(args) > 1 else 0.01)
    if slope < 0:
        refuse(f"leaky_relu of slope {slope}")
    result = _ends(func, args, kwargs)
    return result.made(result.lower, result.upper, result.rounding * result.magnitude())


def _dropout(func: Callable[..., Tensor], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Box:
    (box,) = _only(func, args, kwargs)
    training = kwargs.get("training", args[2] if len(args) > 2 else True)
    if training:
        raise UserError(f"interval bounds of {func.__name__} are for eval mode, got train mode; call network.eval()")
    return box


def _only(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Box]:
    """The one box, which is the first argument; weights that are themselves uncertain have no rule."""
    found = boxes([*args, *kwargs.values()])
    if len(found) != 1 or not args or args[0] is not found[0]:
        refuse(f"{func.__name__} of two uncertain tensors")
    return found


def _conv2d(func: Callable[..., Tensor], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Box:
    (box,) = _only(func, args, kwargs)
    given = dict(zip(("input", "weight", "bias", "stride", "padding", "dilation", "groups"), args, strict=False))
    options = {k: v for k, v in {**given, **kwargs}.items() if k not in ("input", "weight", "bias")}
    weight, bias = {**given, **kwargs}["weight"], {**given, **kwargs}.get("bias")

    def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias, **options)

    return _affine(box, convolve, weight, bias, bias_shape=(-1, 1, 1))[0]


def _linear(func: Callable[..., Tensor], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Box:
    (box,) = _only(func, args, kwargs)
    given = {**dict(zip(("input", "weight", "bias"), args, strict=False)), **kwargs}
    result, weight, bias = _affine(box, F.linear, given["weight"], given.get("bias"), bias_shape=(-1,))
    return result.made(result.lower, result.upper, head=Head(box, weight, bias))


def _affine(
    box: Box,
    layer: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    weight: Tensor,
    bias: Tensor | None,
    bias_shape: Sequence[int],
) -> tuple[Box, Tensor, Tensor | None]:
    """Bounds of a layer that is affine in its input, and its weights in the bounds' precision."""
    weight, bias = weight.to(box.lower), None if bias is None else bias.to(box.lower)
    centre, radius = box.centre_and_radius()
    slack = None
    if box.rounding:
        # A network that rounds is off by at most γ·(|W|·|x| + |b|), whatever the order of its sums.
        gamma = box.gamma(weight[0].numel() + 1)
        radius = radius + gamma * (centre.abs() + radius)
        slack = None if bias is None else gamma * bias.abs().view(*bias_shape)
    middle, half = layer(centre, weight, bias), layer(radius, weight.abs(), None)
    return box.made(middle - half, middle + half, slack), weight, bias


def _batch_norm(func: Callable[..., Tensor], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Box:
    (box,) = _only(func, args, kwargs)
    names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    if given.get("training", False):
        raise UserError("interval bounds of batch_norm are for eval mode, got train mode; call network.eval()")
    shape = (1, -1) + (1,) * (box.ndim - 2)
    mean, variance = (given[name].to(box.lower).view(shape) for name in ("running_mean", "running_var"))
    scale = (variance + given.get("eps", 1e-5)).rsqrt()
    if given.get("weight") is not None:
        scale = scale * given["weight"].to(box.lower).view(shape)
    bias = torch.zeros_like(mean) if given.get("bias") is None else given["bias"].to(box.lower).view(shape)
    centre, radius = box.centre_and_radius()
    middle, half = (centre - mean) * scale + bias, radius * scale.abs()
    slack = box.gamma(8) * (scale.abs() * (box.magnitude() + mean.abs()) + bias.abs()) if box.rounding else None
    return box.made(middle - half, middle + half, slack)


def _ends_of(value: Any, box: Box) -> tuple[Any, Any]:  # noqa: ANN401 - a number, a tensor or a box
    if isinstance(value, Box):
        return value.lower, value.upper
    value = value.to(box.lower) if isinstance(value, Tensor) else value
    return value, value


def _sum_rule(sign: int, *, swapped: bool = False, in_place: bool = False) -> Callable[..., Box]:
    """Rule of a + b or a − b."""

    def rule(func: Callable[..., Tensor], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Box:
        if len(args) != 2 or kwargs:
            refuse(f"{func.__name__} with {', '.join(kwargs) or 'one argument'}")
        box = boxes(args)[0]
        (a_lower, a_upper), (b_lower, b_upper) = (_ends_of(v, box) for v in (args[::-1] if swapped else args))
        b_lower, b_upper = (b_lower, b_upper) if sign > 0 else (-b_upper, -b_lower)
        result = box.made(a_lower + b_lower, a_upper + b_upper)
        if box.rounding:
            result = box.made(result.lower, result.upper, 2 * box.rounding * result.magnitude())
        if not in_place:
            return result
        if not isinstance(args[0], Box):
            refuse(f"{func.__name__} into a tensor")
        # Into the same memory: whatever else looks at it changes too, as it does in the network.
        box.lower.copy_(result.lower)
        box.upper.copy_(result.upper)
        box.head = None
        return box

    return rule


def _mul(func: Callable[..., Tensor], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Box:
    found = boxes(args)
    if len(found) != 1 or len(args) != 2 or kwargs:
        refuse(f"{func.__name__} of two uncertain tensors")
    factor = args[1] if args[0] is found[0] else args[0]
    return _scaled(found[0], factor)


def _div(func: Callable[..., Tensor], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Box:
    (box,) = _only(func, args, kwargs)
    if len(args) != 2 or kwargs:
        refuse(f"{func.__name__} with {', '.join(kwargs)}")
    divisor = args[1].to(box.lower) if isinstance(args[1], Tensor) else args[1]
    return _scaled(box, 1 / divisor)


def _scaled(box: Box, factor: Any) -> Box:  # noqa: ANN401 - a number or a tensor
    scale = factor.to(box.lower) if isinstance(factor, Tensor) else box.lower.new_tensor(factor)
    centre, radius = box.centre_and_radius()
    middle, half = centre * scale, radius * scale.abs()
    slack = box.gamma(3) * (middle.abs() + half) if box.rounding else None
    return box.made(middle - half, middle + half, slack)


def _neg(func: Callable[..., Tensor], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Box:
    (box,) = _only(func, args, kwargs)
    return box.made(-box.upper, -box.lower)


RULES.update(dict.fromkeys(_SELECT.split(), _ends))
RULES.update(dict.fromkeys(_AVERAGE.split(), _average))
RULES.update(dict.fromkeys(_SATURATE.split(), _saturate))
RULES.update(dict.fromkeys(_DROPOUT.split(), _dropout))
RULES.update(dict.fromkeys(("add", "radd"), _sum_rule(1)))
RULES.update(dict.fromkeys(("iadd", "add_"), _sum_rule(1, in_place=True)))
RULES.update({"sub": _sum_rule(-1), "rsub": _sum_rule(-1, swapped=True)})
RULES.update(dict.fromkeys(("isub", "sub_"), _sum_rule(-1, in_place=True)))
RULES.update(dict.fromkeys(("mul", "rmul"), _mul))
RULES.update(dict.fromkeys(("div", "truediv", "true_divide"), _div))
RULES.update({"neg": _neg, "leaky_relu": _leaky_relu, "conv2d": _conv2d, "linear": _linear, "batch_norm": _batch_norm})
