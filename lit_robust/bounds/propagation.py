"""Bounds of what a network can answer when every entry of its input lies in an interval (Gowal et al., 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lit_robust.bounds import rules as _  # noqa: F401 - fills the table of rules
from lit_robust.bounds.box import Box
from lit_robust.errors import UserError

FLOAT32 = 2.0**-24  # unit roundoff


def interval(module: nn.Module, lower: Tensor, upper: Tensor, *, rounding: float = 0.0) -> tuple[Tensor, Tensor]:
    """Least and largest values of each output, by interval bound propagation.

    The module's own forward pass is followed, in eval mode: any code made of operations that `bounds.rules` knows,
    whatever it does with shapes. The bounds can be differentiated in the ends and in the weights, which are taken in
    the precision and on the device of `lower`. They cost about two forward passes.

    Args:
        module: A network or a part of one.
        lower: Least value of each entry of the input, (N, ...).
        upper: Largest value, of the same shape; not below `lower`.
        rounding: Unit roundoff of the network that the bounds shall hold for. With `FLOAT32` and ends in float64 they
            hold for the float32 network too, whose sums may run in any order (forward error bounds of Higham, 2002,
            section 3): each layer widens its output by what rounding can move it. TF32 and 16 bits are not float32.
            With 0 they are those of exact arithmetic, up to the rounding of the bounds themselves: for training.

    Returns:
        Two tensors of the shape of the output.

    Raises:
        UserError: If the module uses an operation that has no rule, or is in train mode.
        ValueError: If the shapes differ or a lower end is above its upper one.
    """
    box = _run(module, lower, upper, rounding)
    return box.lower, box.upper


def margins(module: nn.Module, lower: Tensor, upper: Tensor, y: Tensor, *, rounding: float = 0.0) -> Tensor:
    """Lower bounds of z_y − z_j for each class j, (N, classes); 0 at j = y.

    Where the network ends in a linear layer, it is merged with the margin: with the weights W_y − W_j the bound is
    never looser than the difference of two logits' bounds (Gowal et al., 2018, section 3). The negatives are the
    worst-case logits up to a constant, whose cross-entropy interval training minimises.

    Args:
        module: A network from (N, ...) to logits (N, classes), in eval mode.
        lower: As for `interval`.
        upper: As for `interval`.
        y: Labels, (N,).
        rounding: As for `interval`.

    Raises:
        UserError: As for `interval`.
        ValueError: As for `interval`.
    """
    z = _run(module, lower, upper, rounding)
    if z.head is None:
        least = z.lower.gather(1, y[:, None]) - z.upper
        return least.scatter(1, y[:, None], 0.0)
    source, weight, bias = z.head.source, z.head.weight, z.head.bias
    centre, radius = source.centre_and_radius()
    logits = torch.nn.functional.linear(centre, weight, bias)
    spread = torch.einsum("ncf,nf->nc", (weight[y][:, None] - weight).abs(), radius)
    least = logits.gather(1, y[:, None]) - logits - spread
    if rounding:
        size = torch.nn.functional.linear(centre.abs() + radius, weight.abs(), None if bias is None else bias.abs())
        slack = source.gamma(weight.shape[1] + 2) * (size.gather(1, y[:, None]) + size)
        least = least - slack.scatter(1, y[:, None], 0.0)
    return least


def _run(module: nn.Module, lower: Tensor, upper: Tensor, rounding: float) -> Box:
    if lower.shape != upper.shape or bool((lower > upper).any()):
        raise ValueError(
            f"expected ends of one shape, each lower one at most its upper one, got {lower.shape} and {upper.shape}"
        )
    name = type(module).__name__
    try:
        # Copies, so that layers that work in place leave the caller's tensors alone.
        box = module(Box(lower.clone(), upper.clone(), rounding=rounding))
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    except (TypeError, AttributeError) as error:
        raise UserError(f"{name} does with its input what interval bounds cannot follow: {error}") from error
    if not isinstance(box, Box):
        raise UserError(f"expected {name} to return what it made of its input, got {type(box).__name__}")
    return box
