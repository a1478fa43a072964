"""What a classifier must be before long work starts: images in [0, 1] to logits, one a class."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lit_robust.errors import UserError
from lit_robust.modes import network_mode

_PROBES = 4  # images of random pixels that the network is tried on


def check_classifier(network: nn.Module, image_shape: tuple[int, ...], num_classes: int) -> None:
    """Tries a network on random images.

    Args:
        network: Any module; its mode and statistics stay as they are.
        image_shape: (C, H, W) of the data.
        num_classes: Classes of the data.

    Raises:
        UserError: If it does not take the images, does not return one logit a class, or returns probabilities.
    """
    generator = torch.Generator().manual_seed(0)
    parameter = next(network.parameters(), torch.empty(0))
    x = torch.rand(_PROBES, *image_shape, generator=generator).to(parameter)
    shape, name = "x".join(map(str, image_shape)), type(network).__name__
    try:
        with network_mode(network, train=False), torch.no_grad():
            logits = network(x)
    except (ValueError, RuntimeError, TypeError, IndexError) as error:
        raise UserError(f"{name} does not take the data's {shape} images: {error}") from error
    if not isinstance(logits, Tensor):
        raise UserError(f"expected {name} to return a tensor of logits, got {type(logits).__name__}")
    if logits.shape != (_PROBES, num_classes):
        raise UserError(
            f"expected {name} to return {num_classes} logits an image, one for each class of the data, got shape "
            f"{tuple(logits.shape)} for {_PROBES} images; set num_classes: {num_classes} or choose other data"
        )
    if not logits.isfinite().all():
        raise UserError(f"{name} returns logits that are not finite on random images; its weights are of no use")
    sums = logits.float().sum(1)
    if logits.min() >= 0 and num_classes > 1 and torch.allclose(sums, torch.ones_like(sums), atol=1e-4):
        raise UserError(
            f"{name} returns probabilities, where logits are expected: gradients of saturated probabilities vanish and "
            "robustness is overestimated; remove the final softmax"
        )
