"""Transfer: adversarials that are made on networks at hand, for one that cannot be asked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lit_robust.attacks.base import searching
from lit_robust.attacks.minimum_norm import counted_in
from lit_robust.attacks.wrapper import AttackWrapper
from lit_robust.errors import UserError
from lit_robust.modes import network_mode
from lit_robust.sampling import Noise
from lit_robust.threat import ThreatModel


@dataclass(frozen=True, kw_only=True)
class Transfer(AttackWrapper):
    """An attack on surrogates instead of the network itself (Papernot et al., 2017), which is never queried.

    Several surrogates are attacked together, through the mean of their probabilities (Liu et al., 2017). The attack
    runs to its end, since an adversarial of the surrogates is not yet one of the network.

    Args:
        attack: The attack; with a radius.
        surrogates: Networks from images in [0, 1] to logits, such as `FromRun`; they are put into eval mode.

    Raises:
        UserError: If there is no surrogate, or the attack has no radius.
    """

    surrogates: Sequence[nn.Module]

    def __post_init__(self) -> None:
        if not self.surrogates:
            raise UserError("expected one surrogate or more, got none")
        if counted_in(self.attack).eps is None:
            raise UserError(f"{self.attack.label} has no radius, and the nearest adversarial transfers least")

    def __str__(self) -> str:
        names = ", ".join(type(surrogate).__name__ for surrogate in self.surrogates)
        return f"{self.attack}, transferred from {names}"

    @property
    def label(self) -> str:
        """A short name."""
        return f"{self.attack.label} transferred"

    @property
    def threat_model(self) -> ThreatModel:
        """The images that it may answer with."""
        return counted_in(self.attack)

    def passes(self, classes: int) -> tuple[int, int] | None:
        """The most forward and backward passes that a sample takes, of the surrogates."""
        return self.attack.passes(classes)

    def search(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """The attack's answer on the surrogates."""
        surrogate = _Ensemble(self.surrogates)
        with _beside(surrogate, x), network_mode(surrogate, train=False), searching(surrogate):
            return self.threat_model.project(self.attack.search(surrogate, x, y, noise), x)


@contextmanager
def _beside(surrogate: _Ensemble, x: Tensor) -> Iterator[None]:
    """Surrogates on the device and in the type of `x`, and as they were afterwards."""
    first = [next(member.parameters(), x) for member in surrogate.members]
    were = [(parameter.device, parameter.dtype) for parameter in first]
    surrogate.to(x)
    try:
        yield
    finally:
        for member, (device, dtype) in zip(surrogate.members, were, strict=True):
            member.to(device, dtype)


class _Ensemble(nn.Module):
    """The log of the mean softmax of several networks; one is itself."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        logits: list[Tensor] = [member(x) for member in self.members]
        if len(logits) == 1:
            return logits[0]
        return torch.stack(logits).log_softmax(2).logsumexp(0) - math.log(len(logits))
