"""Counts a model's forward and backward passes, in all and for each sample."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lit_robust import sampling


class _CountBackward(torch.autograd.Function):
    """The identity; its backward pass is one of the model's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, counts: Tensor, rows: Tensor) -> Tensor:  # noqa: ANN401 - autograd's own type
        ctx.counts, ctx.rows = counts, rows
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        ctx.counts.index_add_(0, ctx.rows, torch.ones_like(ctx.rows))  # a sample may pass several times
        return grad[0], None, None


class CountingModel(nn.Module):
    """Wraps a model and counts what passes through it.

    The samples of a forward pass are known by their noise keys (`sampling.keyed`), so the counts follow them when
    others leave the batch.

    Args:
        model: Images to logits.
        keys: Noise keys of the samples that are counted, (N,), all different.

    Attributes:
        forwards: Forward passes of each sample, (N,) int64; a sample that is several rows of a pass counts each.
        backwards: Backward passes of each sample, (N,) int64.
    """

    def __init__(self, model: nn.Module, keys: Tensor) -> None:
        super().__init__()
        self.model = model
        self._sorted, self._order = keys.sort()
        self.forwards = torch.zeros_like(keys)
        self.backwards = torch.zeros_like(keys)
        self._of, self._rows, self._ones = keys, self._order, torch.ones_like(keys)  # of the last pass
        self._find(keys)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the model.

        Raises:
            RuntimeError: If the pass is not keyed, so that nobody knows whose it is.
        """
        noise = sampling.current()
        if noise is None:
            raise RuntimeError("a counted forward pass must run under `sampling.keyed(key)`, which says whose it is")
        if noise.key is not self._of:  # most steps of a search are of the same samples as the one before
            self._find(noise.key)
        self.forwards.index_add_(0, self._rows, self._ones)
        if torch.is_grad_enabled() and x.requires_grad:
            x = _CountBackward.apply(x, self.backwards, self._rows)
        logits: Tensor = self.model(x)
        return logits

    def _find(self, key: Tensor) -> None:
        self._of, self._rows = key, self._order[torch.searchsorted(self._sorted, key)]
        self._ones = torch.ones_like(self._rows)
