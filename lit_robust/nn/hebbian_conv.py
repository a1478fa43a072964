"""A convolution and its ReLU that learn by a local cost too, in the one backward pass that there is anyway."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from lit_robust.nn.hebbian_cost import Hebbian
from lit_robust.nn.weight_norm_conv import WeightNormConv2d


def hebbian_convolution(x: Tensor, conv: WeightNormConv2d, hebbian: Hebbian) -> tuple[Tensor, Tensor]:
    """ReLU(conv(x)), and the layer's Hebbian cost, whose gradient reaches the layer's own parameters only.

    The same gradients as of the cost of ReLU(conv(x.detach())), without a second convolution: the cost's gradient in
    the activations is added to the one that comes from behind where the filters' gradient is computed, and nowhere
    else. Under autocast there is a second convolution.

    Args:
        x: Input, (N, C, H, W).
        conv: The convolution.
        hebbian: The cost.

    Returns:
        Activations (N, C', H', W') and the cost, a 0-d tensor to be added to the loss.
    """
    if torch.is_autocast_enabled(x.device.type):
        # In 16 bits the cost's gradient would be lost where it is added to one that is much larger.
        return F.relu(conv(x)), hebbian.cost(F.relu(conv(x.detach())))
    padding: Any = conv.padding
    if conv.padding_mode != "zeros" or isinstance(padding, str):
        mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
        x, padding = F.pad(x, conv._reversed_padding_repeated_twice, mode=mode), (0, 0)
    geometry = (conv.stride, padding, conv.dilation, conv.groups)
    y, cost = _HebbianConvolution.apply(x, conv.direction, conv.bias, geometry, hebbian)
    return y, cost


class _HebbianConvolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        geometry: tuple[Any, ...],
        hebbian: Hebbian,
    ) -> tuple[Tensor, Tensor]:
        stride, padding, dilation, groups = geometry
        y = F.conv2d(x, weight, bias, stride, padding, dilation, groups).relu_()
        cost, strongest = hebbian.cost_and_strongest(y)
        ctx.save_for_backward(x, weight, y, strongest)
        ctx.geometry, ctx.hebbian, ctx.bias = geometry, hebbian, bias is not None
        return y, cost

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_cost: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None, None, None]:  # noqa: ANN401
        x, weight, y, strongest = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.geometry
        rest = (stride, padding, dilation, False, [0, 0], groups)
        backward = torch.ops.aten.convolution_backward
        of_x = None
        if ctx.needs_input_grad[0]:
            from_behind = torch.ops.aten.threshold_backward(grad, y, 0)
            of_x = backward(from_behind, x, weight, None, *rest, [True, False, False])[0]
        total = torch.ops.aten.threshold_backward(ctx.hebbian.add_gradient(grad, strongest, grad_cost), y, 0)
        sizes = [weight.shape[0]] if ctx.bias else None
        _, of_weight, of_bias = backward(total, x, weight, sizes, *rest, [False, True, ctx.bias])
        return of_x, of_weight, of_bias, None, None
