"""The Square Attack: random search that needs nothing but the scores of a model."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lit_robust.attacks.base import Attack
from lit_robust.attacks.square_patterns import Bumps, Squares
from lit_robust.attacks.survivors import Survivors
from lit_robust.errors import UserError
from lit_robust.losses import labels, margin
from lit_robust.sampling import Noise
from lit_robust.threat import ThreatModel

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of the window's area, in 10,000ths of the queries


@dataclass(frozen=True, kw_only=True)
class Square(Attack):
    """Square Attack (Andriushchenko et al., 2020; in L1 Croce and Hein, 2021) as AutoAttack runs it, untargeted.

    Each query changes a square window of the best image so far at random and keeps the change if it lowers the margin;
    windows shrink as queries are used up. It takes no gradients: a query is a forward pass, and the first one looks at
    the start. Wrap it in `Restarts` for several starts.

    Windows lie anywhere in the image, as in the paper; in the authors' code they never reach the last row and column.
    Each sample has windows of its own, where that code draws one for the batch, and the start counts as a query.

    Args:
        threat: What may be changed, in L∞, L2 or L1.
        queries: Forward passes of each sample.
        p_init: Share of the image that the first windows cover.

    Raises:
        UserError: If the norm is another one or has no radius, `queries` is below 1, or `p_init` is not above 0 and at
            most 1.
    """

    threat: ThreatModel
    queries: int = 5000
    p_init: float = 0.8

    def __post_init__(self) -> None:
        if self.threat.norm not in ("linf", "l2", "l1"):
            raise UserError(f"expected a threat model in linf, l2 or l1, got {self.threat}")
        _ = self.threat.exact  # refuses a threat model without a radius
        if self.queries < 1:
            raise UserError(f"expected queries to be 1 or more, got {self.queries}")
        if not 0 < self.p_init <= 1:
            raise UserError(f"expected p_init to be above 0 and at most 1, got {self.p_init}")

    @property
    def threat_model(self) -> ThreatModel:
        """The images that it may answer with."""
        return self.threat

    @property
    def label(self) -> str:
        """A short name."""
        return f"{type(self).__name__}-{self.queries}"

    def __str__(self) -> str:
        return f"{self.label} {self.threat}, p {self.p_init:g}"

    def passes(self, classes: int) -> tuple[int, int] | None:
        """The most forward and backward passes that a sample takes."""
        return self.queries, 0

    def search(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """The image of the lowest margin that was seen."""
        return self._walk(model, x, y, noise, survivors=None)

    def falsify(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise, *, leave: bool = True) -> Tensor:
        """The first adversarial of each sample, or the image of the lowest margin."""
        survivors = Survivors(x, leave=leave)
        return survivors.finish(self._walk(model, x, y, noise, survivors))

    @torch.no_grad()
    def _walk(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise, survivors: Survivors | None) -> Tensor:
        """Images of the lowest margin of the samples that are left at the end, (M, C, H, W)."""
        kind = Squares if self.threat.norm == "linf" else Bumps
        proposals = kind(self.threat, x, self._sides(*x.shape[2:]), noise)
        y, lowest = labels(y), torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
        for query in range(self.queries):
            x_adv = proposals.propose(query, noise)
            with noise.keyed(query):
                logits = model(x_adv)
            value = margin(logits, y)
            going = None
            if survivors is not None and not (value > 0).all():  # two checks, since a tie need not be broken
                going = survivors.record(x_adv, self.broken(logits, y))
            better = value < lowest
            proposals.keep(better)
            lowest = torch.where(better, value, lowest)
            if going is not None and not going.all():
                proposals.narrow(going)
                y, lowest, noise = y[going], lowest[going], noise.rows(going)
                if not len(y):
                    break
        return proposals.x_best

    def _sides(self, height: int, width: int) -> list[int]:
        """Side of the window of each query; the first looks at the start, and its side is not used.

        A window covers `p_init` of the image, halved each time that one more of `_HALVINGS` of the queries is used up.
        In L2 and L1 sides are odd and 3 at least, as far as the image lets them.
        """
        sides = [1]
        for query in range(self.queries - 1):
            share = self.p_init / 2 ** bisect_left(_HALVINGS, int(query / self.queries * 10_000))
            side = max(round(math.sqrt(share * height * width)), 1)
            if self.threat.norm != "linf":
                side = max(side, 3) | 1
            sides.append(min(side, height, width))
        return sides
