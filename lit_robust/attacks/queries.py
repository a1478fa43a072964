"""The one thing that a decision-based attack may ask a model: is this image adversarial for that sample?"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lit_robust.attacks.base import Attack
from lit_robust.sampling import Noise


@dataclass(frozen=True, eq=False, kw_only=True)
class Queries:
    """Answers whether images are adversarial, each one a forward pass without a gradient.

    Attributes:
        attack: Whose `broken` decides.
        model: Images in [0, 1] to logits.
        y: Labels (N,) or class probabilities (N, C) of the samples.
        noise: Random streams of the samples.
        position: Position of each sample in the batch that the attack was called with, (N,).
        chunk: Images of a forward pass at most.
    """

    attack: Attack
    model: nn.Module
    y: Tensor
    noise: Noise
    position: Tensor
    chunk: int

    def rows(self, keep: Tensor) -> Queries:
        """The same about some of the samples; `keep` is a mask or an index, (N,) or (M,)."""
        return replace(self, y=self.y[keep], noise=self.noise.rows(keep), position=self.position[keep])

    def __call__(self, images: Tensor, *, step: int, draw: int = 0, rows: Tensor | None = None) -> Tensor:
        """Which images are adversarial.

        On a random model, images of one sample in one call meet the same noise; another step or draw brings new noise.

        Args:
            images: Candidates in [0, 1], (M, C, H, W).
            step: Step that random layers draw for.
            draw: Draw of the step that random layers draw for.
            rows: The sample that each image is for, (M,) int64, also several times; None if there is one for each.

        Returns:
            (M,) bool.
        """
        if rows is None:
            rows = torch.arange(len(images), device=images.device)
        answers = [torch.zeros(0, dtype=torch.bool, device=images.device)]
        for some, part in zip(torch.split(images, self.chunk), torch.split(rows, self.chunk), strict=True):
            if len(part):
                with torch.no_grad(), self.noise.rows(part).keyed(step, draw):
                    answers.append(self.attack.broken(self.model(some), self.y[part]))
        return torch.cat(answers)
