"""Whether final images are classified correctly, on draws of a random network that no search has seen."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lit_robust.attacks import Attack
from lit_robust.attacks.minimum_norm import counted_in
from lit_robust.evaluation.full_block import FullBlock
from lit_robust.losses import margin
from lit_robust.sampling import BETWEEN, CHECK


@dataclass(frozen=True)
class Judgement:
    """What a network says to the images of a block, all (N,).

    Attributes:
        broken: Wrong; for a random network in at least half of the fresh draws.
        right: 1 or 0, the opposite of `broken`; for a random network the share of fresh draws that are right.
        right_before: The same on as many other draws, by which one of several answers is preferred. The least of
            several shares is too low a guess; that of the answer preferred, drawn afresh, is not.
        margin: True logit minus the largest other, the mean over the fresh draws.
    """

    broken: Tensor
    right: Tensor
    right_before: Tensor
    margin: Tensor


class Judge:
    """Judges images of a block, always in the shape of a full one.

    Args:
        block: The network and its block.
        draws: Fresh draws of a random network, and as many before those.
        random: Whether the network draws noise when it predicts; None to find out, by a second pass.

    Attributes:
        clean: Logits of the clean images, (N, classes).
        random: Whether the network draws noise when it predicts.
    """

    def __init__(self, block: FullBlock, draws: int, random: bool | None = None) -> None:
        self.block = block
        self.clean = block.logits(block.x)
        if random is None:
            random = not torch.equal(self.clean, block.logits(block.x, BETWEEN))
        self.random = random
        self._draws = draws if self.random else 1
        self._seen = (block.x, self.clean)

    def logits(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of the first fresh draw, computed once for the same images asked twice in a row."""
        if self._seen[0] is not x:
            self._seen = (x, self.block.logits(x))
        return self._seen[1]

    def __call__(self, x: Tensor, attack: Attack | None = None) -> Judgement:
        """Judges images.

        Args:
            x: Images, (N, C, H, W).
            attack: What they come from, which says what breaks and where it counts; None for clean images.
        """
        right, margins = self._look(x, CHECK)
        before = self._look(x, BETWEEN)[0] if self.random else right
        if attack is not None and counted_in(attack) != attack.threat_model:
            outside = ~counted_in(attack).contains(x, self.block.x)
            right, before = right.masked_fill(outside, 1.0), before.masked_fill(outside, 1.0)
        return Judgement(right <= 0.5 if self.random else right == 0, right, before, margins)

    def _look(self, x: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Share of right draws, and mean margin."""
        y, margins = self.block.y, torch.zeros_like(self.clean[:, 0])
        wide = torch.float32 if x.device.type == "mps" else torch.float64  # so that shares add up as they are shown
        right = torch.zeros(len(x), dtype=wide, device=x.device)
        for draw in range(self._draws):
            logits = self.logits(x) if (step, draw) == (CHECK, 0) else self.block.logits(x, step, draw)
            right += (logits.argmax(1) == y) & logits.isfinite().all(1)
            margins = margins + margin(logits, y)
        return right / self._draws, margins / self._draws
