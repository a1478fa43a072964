"""The attack under test, of this package's kind or a function of another library's."""

from __future__ import annotations

import importlib
import inspect
import os
import random
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lit_robust import sampling
from lit_robust.attacks import Attack, Restarts
from lit_robust.errors import UserError
from lit_robust.threat import LpNorm, ThreatModel

REFUSALS = (NotImplementedError, UserError)  # of a norm that an attack does not claim
_CALL = ("model", "x", "y", "eps", "norm")


class Contestant(ABC):
    """An attack that the checks can build for any threat model and run."""

    name: str

    @property
    @abstractmethod
    def keyed(self) -> bool:
        """Whether each sample has a noise stream of its own, so that results may be compared bit for bit."""

    @abstractmethod
    def nearest(self, threat: ThreatModel) -> bool:
        """Whether it looks for the nearest adversarial, at any distance, and not for the worst image in the ball."""

    @abstractmethod
    def run(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        threat: ThreatModel,
        *,
        seed: int = 0,
        index: Tensor | None = None,
        restarts: int | None = None,
    ) -> Tensor:
        """Adversarial images.

        Args:
            model: Images in [0, 1] to logits.
            x: Images in [0, 1], (N, C, H, W).
            y: Labels, (N,).
            threat: What may be changed.
            seed: Seed of all its random numbers.
            index: Numbers of the samples, (N,), for its noise; 0 to N − 1 if None.
            restarts: Number of restarts; None for its own.

        Returns:
            x_adv, (N, C, H, W).

        Raises:
            NotImplementedError: If it does not know the norm, or no restarts.
            UserError: The same, by an attack of this package.
        """


@dataclass(frozen=True)
class AttackFactory(Contestant):
    """A function from a threat model to an `Attack`.

    Args:
        make: The function; with an argument `restarts` if the attack does restarts of its own.
        name: What it is called.
    """

    make: Callable[..., Attack]
    name: str

    @property
    def keyed(self) -> bool:
        """True: an `Attack` draws from `noise`."""
        return True

    def attack(self, threat: ThreatModel, restarts: int | None = None) -> Attack:
        """The attack for a threat model, with so many restarts.

        Raises:
            TypeError: If the function returns something else.
        """
        own = restarts is not None and "restarts" in inspect.signature(self.make).parameters
        made = self.make(threat, restarts=restarts) if own else self.make(threat)
        if not isinstance(made, Attack):
            raise TypeError(f"expected {self.name} to return an Attack, got {type(made).__name__}")
        return made if restarts is None or own else Restarts(attack=made, n=restarts)

    def nearest(self, threat: ThreatModel) -> bool:
        """Whether its threat model has no radius."""
        return self.attack(threat).threat_model.eps is None

    def run(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        threat: ThreatModel,
        *,
        seed: int = 0,
        index: Tensor | None = None,
        restarts: int | None = None,
    ) -> Tensor:
        """As for `Contestant`."""
        number = torch.arange(len(x)) if index is None else index
        return self.attack(threat, restarts)(model, x, y, key=sampling.keys(number, seed=seed))


@dataclass(frozen=True)
class PlainAttack(Contestant):
    """A function `(model, x, y, eps, norm) -> x_adv`, with `norm` one of `linf`, `l2` and `l1`.

    Args:
        call: The function; with an argument `restarts` if it can do them. It raises NotImplementedError for a norm that
            it does not know.
        name: What it is called.
        finds_nearest: Whether it looks for the nearest adversarial, at any distance.
    """

    call: Callable[..., Tensor]
    name: str
    finds_nearest: bool = False

    @property
    def keyed(self) -> bool:
        """False: all samples share the global generators."""
        return False

    def nearest(self, threat: ThreatModel) -> bool:
        """As it was said to."""
        return self.finds_nearest

    def run(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        threat: ThreatModel,
        *,
        seed: int = 0,
        index: Tensor | None = None,
        restarts: int | None = None,
    ) -> Tensor:
        """As for `Contestant`; the global generators of torch, NumPy and Python are seeded."""
        options: dict[str, Any] = {} if restarts is None else {"restarts": restarts}
        if options and "restarts" not in inspect.signature(self.call).parameters:
            raise NotImplementedError(f"{self.name} has no argument restarts")
        torch.manual_seed(seed)
        random.seed(seed)
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed(seed)
        return self.call(model, x, y, threat.radius, threat.norm, **options)


def contestant(found: object, name: str, *, finds_nearest: bool = False) -> Contestant:
    """What a user named, as something that can be checked.

    Args:
        found: A function of a threat model, a subclass of `Attack` that takes `threat`, or a function
            `(model, x, y, eps, norm)`.
        name: What it is called.
        finds_nearest: For the last kind, whether it looks for the nearest adversarial.

    Raises:
        UserError: If it is none of these.
    """
    if inspect.isclass(found) and issubclass(found, Attack):
        kind: Callable[..., Attack] = found
        return AttackFactory(lambda threat: kind(threat=threat), name)
    if callable(found):
        needed = [p for p in inspect.signature(found).parameters.values() if p.default is p.empty]
        positional = [p for p in needed if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        if len(positional) == len(needed) == 1:
            return AttackFactory(found, name)
        if len(positional) == len(needed) == len(_CALL):
            return PlainAttack(found, name, finds_nearest)
    raise UserError(
        f"--attack {name}: expected a function of a ThreatModel that returns an Attack, or a function "
        f"({', '.join(_CALL)}) that returns images; got {found!r}"
    )


def load(spec: str, *, finds_nearest: bool = False) -> Contestant:
    """The attack that `module:name` names, looked for in the current folder too.

    Args:
        spec: Module and name, such as `my_module:make_attack`.
        finds_nearest: As for `contestant`.

    Raises:
        UserError: If there is no such module or name, or it is no attack.
    """
    module, colon, name = spec.partition(":")
    if not colon or not name.isidentifier():
        raise UserError(f"--attack: expected module:name, such as my_module:make_attack, got {spec!r}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise UserError(f"--attack {spec}: no module {error.name!r}, also not in {os.getcwd()}") from error
    except AttributeError as error:
        raise UserError(f"--attack {spec}: {error}") from error
    return contestant(found, spec, finds_nearest=finds_nearest)


def claims(attack: Contestant, norm: LpNorm, model: nn.Module, x: Tensor, y: Tensor, eps: float) -> str | None:
    """Why the attack does not do a norm, or None if it does: what it raises, tried on two images."""
    try:
        attack.run(model, x[:2], y[:2], ThreatModel(eps, norm))
    except REFUSALS as error:
        return str(error) or type(error).__name__
    return None
