"""Per-channel adaptive thresholds: what a channel keeps of each image."""

from __future__ import annotations

from math import floor
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lit_robust.errors import UserError


class FractionThreshold(nn.Module):
    """Keeps the largest activations of each channel and image, and sets the others to 0 (dissertation, Eq. 5.3).

    The threshold τ is the k-th smallest of a channel's H·W activations with k = ⌊(1 − keep) · H·W⌋. As published in
    code, z > τ is kept, so that at most `keep` of the locations stay; with `ties: keep`, z ≥ τ as in the text. No
    gradient goes through τ.

    Args:
        keep: Fraction of the locations that stay, above 0 and at most 1.
        ties: What happens to activations equal to τ.

    Raises:
        UserError: If `keep` is outside its range, or, at the first call, the maps have a single location.
    """

    def __init__(self, *, keep: float = 0.2, ties: Literal["drop", "keep"] = "drop") -> None:
        super().__init__()
        if not 0 < keep <= 1:
            raise UserError(f"expected keep of the threshold above 0 and at most 1, got {keep}")
        self.keep, self.ties = keep, ties

    def forward(self, z: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W), with zeros."""
        size = _locations(z)
        # In decimal, as meant: 1 − 0.2 is below 0.8 in binary for some sizes.
        k = floor(round((1 - self.keep) * size, 9))
        if k == 0:
            return z
        tau = _kth_largest(z.detach().flatten(2), size - k + 1)[..., None, None]
        return _drop(z, z <= tau if self.ties == "drop" else z < tau)

    def extra_repr(self) -> str:
        """The settings."""
        return f"keep={self.keep}, ties={self.ties}"


class MeanThreshold(nn.Module):
    """Keeps the activations that are at least their channel's mean in the image (dissertation, section 5.2.1).

    Args:
        scale: Multiplier of the mean.

    Raises:
        UserError: If `scale` is negative, or, at the first call, the maps have a single location.
    """

    def __init__(self, *, scale: float = 1.0) -> None:
        super().__init__()
        if not scale >= 0:
            raise UserError(f"expected scale of the threshold to be 0 or more, got {scale}")
        self.scale = scale

    def forward(self, z: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W), with zeros."""
        _locations(z)
        return _drop(z, z < self.scale * z.detach().mean((2, 3), keepdim=True))

    def extra_repr(self) -> str:
        """The settings."""
        return f"scale={self.scale}"


def _kth_largest(z: Tensor, k: int) -> Tensor:
    """The k-th largest of the last dimension, (N, C) of (N, C, L): the least of the k largest, found faster."""
    if z.device.type == "cpu" and z.dtype == torch.float32 and bool((z >= 0).all()):
        # The bits of floats that are not negative, read as integers, are in the same order, and quicker to compare.
        bits: Tensor = z.view(torch.int32).topk(k, dim=2, sorted=False).values.amin(2)
        return bits.view(torch.float32)
    return z.topk(k, dim=2, sorted=False).values.amin(2)


class _Mask(torch.autograd.Function):
    """Sets what is dropped to 0. For the backward pass it keeps its output, which the next layer keeps as well."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, dropped: Tensor) -> Tensor:  # noqa: ANN401
        kept = torch.where(dropped, 0, z)
        ctx.save_for_backward(kept)
        return kept

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        (kept,) = ctx.saved_tensors
        # A kept activation of exactly 0 gets no gradient; the ReLU before it would stop it anyway.
        return torch.ops.aten.hardshrink_backward(grad, kept, 0), None


def _drop(z: Tensor, dropped: Tensor) -> Tensor:
    # What is not a number compares as false and so stays, to be seen in the loss.
    kept: Tensor = _Mask.apply(z, dropped)
    return kept


def _locations(z: Tensor) -> int:
    size = z.shape[2] * z.shape[3]
    if size == 1:
        raise UserError(
            "a threshold per channel needs feature maps of more than one location, got 1x1; use fewer HaH blocks, "
            "larger images (data.size) or threshold: null"
        )
    return size
