"""What an evaluation will cost, before it begins, and how many samples a given time is enough for.

Passes are the most that there can be. The time is what these take in the network in full batches: what attacks compute
besides and the smaller batches of samples that are left come on top, and samples that break early take less.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lit_robust.attacks import Attack
from lit_robust.errors import UserError
from lit_robust.evaluation.interval import wilson

_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86_400}
_SPELLING = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*(s|min|h|d)\s*")


def seconds(budget: str) -> float:
    """The seconds of a time such as `90s`, `30min`, `1.5h` or `2d`.

    Raises:
        UserError: If it is not one, or not above 0.
    """
    match = _SPELLING.fullmatch(budget)
    if match is None or float(match[1]) == 0:
        raise UserError(f"expected a time such as 90s, 30min, 1.5h or 2d, got {budget!r}")
    return float(match[1]) * _UNITS[match[2]]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one sample costs at most.

    Attributes:
        forwards: Forward passes of all attacks.
        backwards: Backward passes.
        seconds: Time of these passes in full batches, on one process.
    """

    forwards: int
    backwards: int
    seconds: float

    def samples(self, budget: float, processes: int) -> int:
        """How many samples a time in seconds is enough for, 0 or more."""
        return int(budget * processes / self.seconds) if self.seconds > 0 else 0

    def describe(self, samples: int, processes: int) -> str:
        """The cost of some samples and how wide the interval of a figure can be, in words."""
        low, high = wilson(samples / 2, samples)
        took = _spell(self.seconds * samples / processes)
        return (
            f"{samples:,} samples, at most {self.forwards:,} forward and {self.backwards:,} backward passes each: "
            f"about {took} in the network if none breaks early. 95 % intervals are at most {100 * (high - low):.1f} "
            "points wide"
        )


def cost(network: nn.Module, x: Tensor, attacks: Mapping[str, Attack], classes: int) -> Cost | None:
    """The cost of a sample, from two timed batches; None if an attack does not know its passes.

    Args:
        network: Images in [0, 1] to logits, in eval mode.
        x: A batch, (N, C, H, W).
        attacks: Attacks by name.
        classes: Number of classes.
    """
    every = [attack.passes(classes) for attack in attacks.values()]
    passes = [counts for counts in every if counts is not None]
    if len(passes) < len(every) or not passes:
        return None
    forwards, backwards = (sum(counts) for counts in zip(*passes, strict=True))
    x = x.detach().clone().requires_grad_()
    forward, both = (min(_timed(network, x, backward=backward) for _ in range(2)) for backward in (False, True))
    each = (forwards * forward + backwards * max(both - forward, 0.0)) / len(x)
    return Cost(forwards=forwards, backwards=backwards, seconds=each)


def _timed(network: nn.Module, x: Tensor, *, backward: bool) -> float:
    _synchronise(x)
    started = time.perf_counter()
    with torch.set_grad_enabled(backward):
        logits = network(x)
        if backward:
            torch.autograd.grad(logits.sum(), x)
    _synchronise(x)
    return time.perf_counter() - started


def _synchronise(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)


def _spell(length: float) -> str:
    if length < 60:
        return f"{length:.0f} s"
    if length < 3600:
        return f"{length / 60:.0f} min"
    return f"{length / 3600:.1f} h"
