"""One entry of the list of checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lit_robust.doctor.diagnosis import Diagnosis
from lit_robust.doctor.subject import Subject

Look = Callable[[Subject], Iterator[Diagnosis]]


@dataclass(frozen=True, kw_only=True)
class Check:
    """A mistake that is looked for.

    Attributes:
        name: What it is called in the table.
        look: Says what it found; its diagnoses carry no name yet.
        at_start: Whether it guards the start of every run: it takes well under a second.
        gate: Whether an error found here leaves the network unfit to be asked anything else.
        asks: Whether it asks the network, so that it is skipped after an error of a gate.
    """

    name: str
    look: Look
    at_start: bool = True
    gate: bool = False
    asks: bool = False
