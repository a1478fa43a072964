"""Attacks through chosen backward passes (BPDA, Athalye et al., 2018)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from lit_robust.attacks.wrapper import AttackWrapper
from lit_robust.backward import chosen, imported
from lit_robust.errors import UserError
from lit_robust.sampling import Noise


@dataclass(frozen=True, kw_only=True)
class Through(AttackWrapper):
    """An attack that sees backward passes of one's choice in some layers; forward passes are the model's own.

    Args:
        attack: The attack.
        backward: Backward passes by names of layers: one that the layer offers, or for any other layer `identity`,
            `smooth(h)`, or a function or the import path of one; see `lit_robust.backward.chosen`.

    Raises:
        UserError: If no layer is named, or there is no such function. Whether the model has such layers is seen when
            the attack is called.
    """

    backward: Mapping[str, str | Callable[[Tensor], Tensor]]

    def __post_init__(self) -> None:
        if not self.backward:
            raise UserError("expected the backward pass of one layer or more, got none")
        for way in self.backward.values():
            if isinstance(way, str):
                imported(way)

    def __str__(self) -> str:
        return f"{self.attack}, through {self._named}"

    @property
    def _named(self) -> str:
        names = {key: way if isinstance(way, str) else _called(way) for key, way in self.backward.items()}
        return " ".join(f"{key}={name}" for key, name in names.items())

    @property
    def label(self) -> str:
        """A short name."""
        return f"{self.attack.label} through {self._named}"

    def search(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """The attack's answer.

        Raises:
            UserError: If the model has no such layer, or a layer no such backward pass.
        """
        with chosen(model, self.backward):
            return self.attack.search(model, x, y, noise)

    def falsify(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise, *, leave: bool = True) -> Tensor:
        """The attack's answer; samples leave as in the attack itself."""
        with chosen(model, self.backward):
            return self.attack.falsify(model, x, y, noise, leave=leave)


def _called(function: Callable[[Tensor], Tensor]) -> str:
    return str(getattr(function, "__name__", type(function).__name__))
