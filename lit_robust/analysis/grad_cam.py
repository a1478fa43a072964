"""Grad-CAM: where in an image a layer finds what speaks for a class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_robust.errors import UserError
from lit_robust.taps import layer_names


def grad_cam(model: nn.Module, x: Tensor, target: Tensor | None = None, *, layer: str) -> Tensor:
    """Class activation maps weighted by gradients (Selvaraju et al., 2017, Eq. 1 and 2).

    A channel's weight is the mean over space of the gradient of the target's logit in the layer's output; a map is the
    ReLU of the weighted sum of the channels, scaled up bilinearly to the image and divided by its largest value. No
    hook, gradient or flag of the model is left changed.

    Args:
        model: Images to logits, in eval mode.
        x: Images, (N, C, H, W).
        target: Classes whose logits are explained, (N,) int64; None for the predicted ones.
        layer: Name of the layer, or a pattern that one layer matches.

    Returns:
        Maps in [0, 1], (N, H, W). A map without any positive entry is all 0.

    Raises:
        UserError: If there is no such layer or several, the forward pass does not reach it, its output is no (N, C, H,
            W), or the logits do not depend on it.
    """
    names = layer_names(model, [layer])
    if len(names) > 1:
        raise UserError(f"Grad-CAM explains one layer, but {layer!r} matches {', '.join(names)}")
    (name,) = names
    seen: list[Tensor] = []

    def start_graph(module: nn.Module, args: object, output: object) -> Tensor:
        if not isinstance(output, Tensor) or output.ndim != 4:
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise UserError(f"Grad-CAM needs a layer whose output is (N, C, H, W); {name} gives {shape}")
        seen.append(output.detach().requires_grad_())
        return seen[-1].clone()  # a layer behind it may work in place

    handle = model.get_submodule(name).register_forward_hook(start_graph)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            logits = model(x.detach().clone())
            if not seen:
                raise UserError(f"the forward pass does not reach {name}; choose another layer")
            chosen = logits.argmax(1) if target is None else target.clone()  # no inference tensor
            score = logits.gather(1, chosen[:, None]).sum()  # summed: no image's gradient depends on another
            used = score.requires_grad
            gradient = torch.autograd.grad(score, seen[-1], allow_unused=True)[0] if used else None
    finally:
        handle.remove()
    if gradient is None:
        raise UserError(f"the logits do not depend on {name}, or not differentiably; choose another layer")
    return _maps(seen[-1].detach(), gradient, x.shape[-2:])


def _maps(output: Tensor, gradient: Tensor, size: Sequence[int]) -> Tensor:
    weights = gradient.mean((2, 3), keepdim=True)
    coarse = (weights * output).sum(1, keepdim=True).relu()
    maps = F.interpolate(coarse, size=list(size), mode="bilinear", align_corners=False)[:, 0]
    largest = maps.amax((1, 2), keepdim=True)
    return maps / torch.where(largest > 0, largest, 1.0)
