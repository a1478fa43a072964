"""Attacks that see nothing of a model but its decisions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from lit_robust.attacks.base import Attack
from lit_robust.attacks.minimum_norm import MinimumNormAttack
from lit_robust.attacks.queries import Queries
from lit_robust.attacks.starts import CLEAN, LAST, BlendedNoise, Start
from lit_robust.errors import UserError
from lit_robust.projections import length
from lit_robust.sampling import Noise
from lit_robust.threat import NAMES

_CLEARANCE = 1e-4  # share of its distance by which an answer is moved off the boundary


@dataclass(frozen=True, kw_only=True)
class DecisionAttack(MinimumNormAttack, ABC):
    """Starts from an adversarial far away and walks towards the image, one forward pass a query and no gradient.

    Samples that are wrong already are their own nearest adversarial; those without a start keep the clean image. On the
    boundary itself rounding decides, which differs in a batch of another shape; so the answer lies a ten-thousandth of
    its distance farther out than the nearest adversarial, if it is adversarial there too and counts as before. A
    subclass states its `norms` and writes `walk`.

    Args:
        norm: What distance is measured in.
        eps: See `MinimumNormAttack`; where it alone counts, a sample leaves once its adversarial is within it.
        start: Where each sample's first adversarial comes from.
        chunk: Images of a forward pass at most.

    Raises:
        UserError: If the attack does not know the norm, or a number is out of range.
    """

    norms: ClassVar[tuple[str, ...]]

    start: Start = field(default_factory=BlendedNoise)
    chunk: int = 4096

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm not in self.norms:
            known, name = " or ".join(self.norms), type(self).__name__
            raise UserError(f"expected the norm of {name} to be {known}, got {self.norm} ({NAMES[self.norm]})")
        if self.chunk < 1:
            raise UserError(f"expected chunk to be at least 1, got {self.chunk}")

    @abstractmethod
    def walk(self, ask: Queries, x: Tensor, x_adv: Tensor, within: float | None) -> Tensor:
        """The search from the starting images.

        Args:
            ask: Says which images are adversarial; its steps count from `starts.FIRST`.
            x: Images that the model gets right, (N, C, H, W), N ≥ 1.
            x_adv: An adversarial of each, (N, C, H, W).
            within: A sample leaves once its adversarial is at most this far; None keeps all to the end.

        Returns:
            The nearest adversarial that was seen of each, (N, C, H, W).
        """

    @property
    def walk_queries(self) -> int | None:
        """The most queries that the walk of a sample makes, or None if nobody knows."""
        return None

    def passes(self, classes: int) -> tuple[int, int] | None:
        """The most forward and backward passes that a sample takes."""
        start, walk = self.start.queries, self.walk_queries
        return None if start is None or walk is None else (start + walk + 2, 0)  # the image and the answer

    @property
    def wants_images(self) -> bool:
        """Whether its start chooses from a pool of images, which `bound` has to bring."""
        return self.start.wants_images

    def bound(self, pool: Tensor) -> Self:
        """The attack with a pool of images for its start.

        Args:
            pool: Images (P, C, H, W), floating point in [0, 1] or uint8.

        Raises:
            UserError: If the start wants images and these are none.
        """
        return replace(self, start=self.start.bound(pool))

    def search(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """The nearest adversarial that was seen of each sample."""
        return self._search(model, x, y, noise, None)

    def falsify(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise, *, leave: bool = True) -> Tensor:
        """The same; with `eps`, samples leave once their adversarial is within it."""
        return self._search(model, x, y, noise, self._within(leave))

    @torch.no_grad()
    def _search(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise, within: float | None) -> Tensor:
        rows = torch.arange(len(x), device=x.device)
        everyone = Queries(attack=self, model=model, y=y, noise=noise, position=rows, chunk=self.chunk)
        rows = rows[~everyone(x, step=CLEAN)]
        x_adv, found = self.start(everyone.rows(rows), x[rows])
        rows, x_adv, answer = rows[found], x_adv[found], x.clone()
        if len(rows):
            ask, x = everyone.rows(rows), x[rows]
            answer[rows] = self._cleared(ask, x, self.walk(ask, x, x_adv, within))
        return answer

    def _cleared(self, ask: Queries, x: Tensor, x_adv: Tensor) -> Tensor:
        moved = (x_adv + _CLEARANCE * (x_adv - x)).clamp_(0, 1)
        before, after = (length((images - x).flatten(1), self.norm) for images in (x_adv, moved))
        kept = ask(moved, step=LAST) & ((before > self.counted.radius) | (after <= self.counted.radius))
        return torch.where(kept.view(-1, 1, 1, 1), moved, x_adv)


def wants_images(attack: Attack) -> bool:
    """Whether an attack, or what it wraps, starts from images of a pool, which `bound_to` has to bring."""
    inner = getattr(attack, "attack", None)
    if isinstance(inner, Attack):
        return wants_images(inner)
    return isinstance(attack, DecisionAttack) and attack.wants_images


def bound_to(attack: Attack, pool: Tensor) -> Attack:
    """An attack that has a pool of images for its start, also inside `EOT` and `Transfer`; any other as it is.

    Args:
        attack: Any attack.
        pool: As for `DecisionAttack.bound`.

    Raises:
        UserError: If the attack wants images and these are none.
    """
    wrapper: Any = attack
    if isinstance(getattr(attack, "attack", None), Attack):
        bound: Attack = replace(wrapper, attack=bound_to(wrapper.attack, pool))
        return bound
    return attack.bound(pool) if isinstance(attack, DecisionAttack) else attack
