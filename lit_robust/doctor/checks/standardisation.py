"""Standardisation twice, or with the statistics of another data set, seen where a network's first weights are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lit_robust.doctor.diagnosis import Diagnosis, error, ok, warning
from lit_robust.doctor.subject import Subject
from lit_robust.modes import network_mode

_MEAN = 0.25  # of a channel after standardisation; with the right statistics 64 images are within 0.1 of 0
_STD = (0.7, 1.4)  # the same of its standard deviation
_WILD_MEAN, _WILD_STD = 2.0, 2.75  # before the first weights; two standardisations in a row give 1/std of 4 and more


class _FirstWeightsError(Exception):
    """Ends a forward pass where the first layer with weights begins; the rest is of no interest."""


@dataclass
class _Seen:
    standardised: list[tuple[str, Tensor, Tensor]] = field(default_factory=list)  # name, what went in, what came out
    first: tuple[str, Tensor] | None = None  # what the first layer with weights is given


def standardisation(subject: Subject) -> Iterator[Diagnosis]:
    """Mean and standard deviation of each channel after standardisation, which should be about 0 and 1."""
    seen = _watch(subject)
    fine = [
        f"{name}: mean {_range(out.mean((0, 2, 3)))}, std {_range(_std(out))}" for name, _, out in seen.standardised
    ]
    problems = [problem for name, x, out in seen.standardised if (problem := _judge(name, x, out)) is not None]
    if not problems and seen.first is not None and _wild(seen.first[1]):
        name, x = seen.first
        problems.append(
            warning(
                f"the first layer with weights, {name}, is given values of mean {float(x.mean()):.3g} and std "
                f"{float(x.std()):.3g}",
                "are images standardised twice, or is there a factor of 255? Standardise once, inside the network",
            )
        )
    yield from problems
    if not problems:
        yield ok("; ".join(fine) or "the network does not standardise, and its first weights see moderate values")


def _judge(name: str, x: Tensor, out: Tensor) -> Diagnosis | None:
    if float(x.min()) < -0.05 and not _off(x):
        return error(f"{name} is given images that are standardised already", "standardise once, inside the network")
    if _off(out):
        return warning(
            f"after {name} the channels have mean {_range(out.mean((0, 2, 3)))} and std {_range(_std(out))}, where "
            "about 0 and 1 are expected: statistics of another data set, or images that are scaled otherwise",
            f"these images have mean {_listed(x.mean((0, 2, 3)))} and std {_listed(_std(x))}",
        )
    return None


def _off(out: Tensor) -> bool:
    mean, std = out.mean((0, 2, 3)).abs(), _std(out)
    alive = std > 0  # a channel that is constant in all images has no deviation to speak of
    return bool((mean > _MEAN).any() or ((std < _STD[0]) & alive).any() or (std > _STD[1]).any())


def _wild(x: Tensor) -> bool:
    return float(x.mean().abs()) > _WILD_MEAN or float(x.std()) > _WILD_STD


def _std(x: Tensor) -> Tensor:
    return x.transpose(0, 1).flatten(1).std(1)


def _range(values: Tensor) -> str:
    low, high = float(values.min()), float(values.max())
    return f"{low:.2f}" if len(values) == 1 else f"{low:.2f} to {high:.2f}"


def _listed(values: Tensor) -> str:
    return "[" + ", ".join(f"{value:.4f}" for value in values.tolist()) + "]"


def _watch(subject: Subject) -> _Seen:
    """Runs the network up to its first weights, and notes what standardising layers take and give."""
    seen, x = _Seen(), subject.batch[0].to(next(subject.network.parameters(), torch.empty(0)))
    handles = []
    for name, module in subject.network.named_modules():
        label = f"{type(module).__name__}{f' ({name})' if name else ''}"
        if _standardises(module):
            handles.append(module.register_forward_hook(_noting(seen, label)))
        elif next(module.parameters(), None) is not None and not list(module.children()):
            handles.append(module.register_forward_pre_hook(_stopping(seen, label)))
    try:
        with network_mode(subject.network, train=False), torch.no_grad(), torch.random.fork_rng(devices=[]):
            subject.network(x)
    except _FirstWeightsError:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _standardises(module: nn.Module) -> bool:
    """Whether a module is a Standardize, or another library's: it holds `mean` and `std` and no layers."""
    return hasattr(module, "mean") and hasattr(module, "std") and not list(module.children())


def _noting(seen: _Seen, label: str) -> Callable[..., None]:
    def note(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ANN401 - whatever it returns
        if isinstance(output, Tensor) and inputs and output.ndim == 4:
            seen.standardised.append((label, inputs[0].float(), output.float()))

    return note


def _stopping(seen: _Seen, label: str) -> Callable[..., None]:
    def stop(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and isinstance(inputs[0], Tensor):
            seen.first = (label, inputs[0].float())
            raise _FirstWeightsError

    return stop
