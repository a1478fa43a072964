"""Modules one after the other, as a config can list them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lit_robust import sampling
from lit_robust.errors import UserError
from lit_robust.expectation import passes


class Pipeline(nn.Module):
    """A deployed model made of stages: for instance a front end, a standardisation, a classifier.

    Args:
        stages: The modules in the order in which an image meets them; the first takes images in [0, 1], the last gives
            logits. A layer of stage i is named `stages.i.…`.

    Raises:
        UserError: If there is no stage.
    """

    def __init__(self, stages: Sequence[nn.Module]) -> None:
        super().__init__()
        if not stages:
            raise UserError("expected Pipeline to have at least one stage, got none")
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> Tensor:
        """What the last stage makes of images (N, C, H, W) in [0, 1]: logits (N, classes)."""
        for stage in self.stages:
            x = stage(x)
        return x

    def passes(self, x: Tensor, n: int) -> Tensor:
        """Outputs of n forward passes in a row, (n·N, classes), those of the first pass first; see `passes`.

        If the first stage can draw several passes at once, the others take them as one batch.

        Args:
            x: Images (N, C, H, W) in [0, 1].
            n: Number of passes.
        """
        first, *others = self.stages
        if not hasattr(first, "passes"):
            return torch.cat([self(x) for _ in range(n)])
        drawn = passes(first, x, n)
        with sampling.repeated(n):
            for stage in others:
                drawn = stage(drawn)
        return drawn
