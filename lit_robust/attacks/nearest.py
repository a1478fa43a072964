"""The nearest adversarial of each sample of a batch so far, and the samples whose search goes on."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_robust.projections import length
from lit_robust.threat import LpNorm


class Nearest:
    """Keeps the nearest adversarial of each sample and tells which samples go on.

    Args:
        x: The images that the search starts from, (N, C, H, W).
        norm: What distance is measured in.
        within: A sample leaves the search once its adversarial is at most this far; None keeps all to the end, as a
            measurement of distances has to.

    Attributes:
        x_adv: The nearest adversarial of each sample, the image itself where there is none, (N, C, H, W).
        distance: Its distance, infinite where there is none, (N,).
    """

    def __init__(self, x: Tensor, norm: LpNorm, *, within: float | None = None) -> None:
        self.x_adv = x.clone()
        self.distance = x.new_full((len(x),), torch.inf)
        self._x, self._norm, self._within = x, norm, within
        self._position = torch.arange(len(x), device=x.device)  # of each row of the search in the batch

    def record(self, x_adv: Tensor, broken: Tensor) -> Tensor:
        """Keeps what is nearer than before and says which rows of the search go on.

        Args:
            x_adv: Where the search is, as the model has seen it, (M, C, H, W).
            broken: Whether the model gets it wrong, (M,).

        Returns:
            Mask of the rows that go on, (M,) bool; when some do not, the caller narrows its tensors by it.
        """
        at = self._position
        distance = length((x_adv - self._x[at]).flatten(1), self._norm)
        nearer = broken & (distance < self.distance[at])
        self.x_adv[at[nearer]] = x_adv[nearer]
        self.distance[at[nearer]] = distance[nearer]
        if self._within is None:
            return torch.ones_like(broken)
        going = self.distance[at] > self._within
        self._position = at[going]
        return going

    @property
    def position(self) -> Tensor:
        """Position in the batch of each row that goes on, (M,)."""
        return self._position
