"""The samples of a batch whose search goes on."""

from __future__ import annotations

import torch
from torch import Tensor


class Survivors:
    """Keeps the first adversarial of each sample and tells which samples go on.

    Args:
        x: The images that the search starts from, (N, C, H, W).
        leave: Broken samples leave the batch; otherwise all go on and only their first adversarial counts.
    """

    def __init__(self, x: Tensor, *, leave: bool) -> None:
        self.result = x.clone()
        self.leave = leave
        self._position = torch.arange(len(x), device=x.device)  # of each row of the search in the batch
        self._done = torch.zeros(len(x), dtype=torch.bool, device=x.device)

    def record(self, x_adv: Tensor, broken: Tensor) -> Tensor:
        """Keeps new adversarials and says which rows of the search go on.

        Args:
            x_adv: Where the search is, (M, C, H, W).
            broken: Whether the model gets them wrong, (M,).

        Returns:
            Mask of the rows that go on, (M,) bool; when some do not, the caller narrows its tensors by it.
        """
        if not broken.any():  # as in most steps
            return ~broken
        first = broken & ~self._done[self._position]
        self.result[self._position[first]] = x_adv[first]
        self._done[self._position[first]] = True
        if not self.leave:
            return torch.ones_like(broken)
        self._position = self._position[~broken]
        return ~broken

    def finish(self, x_adv: Tensor) -> Tensor:
        """The batch's answer: the first adversarial where there is one, else where the search ended."""
        open_ = ~self._done[self._position]
        self.result[self._position[open_]] = x_adv[open_]
        return self.result
