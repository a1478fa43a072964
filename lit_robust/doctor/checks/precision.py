"""The final check of an evaluation must be in float32 or float64: 16 bits and TF32 round what attacks live on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lit_robust.doctor.diagnosis import Diagnosis, ok, skipped, warning
from lit_robust.doctor.subject import Subject

_SHORT = (torch.float16, torch.bfloat16)
_EXACT = ("32", "32-true", "64", "64-true", "None")


def final_precision(subject: Subject) -> Iterator[Diagnosis]:
    """`trainer.precision`, autocast that is on already, and layers that compute in 16 bits by themselves."""
    if not subject.tests:
        yield skipped("nothing is tested yet")
        return
    precision, fine = str(subject.trainer.get("precision")), True
    if precision not in _EXACT:
        fine = False
        yield warning(
            f"trainer.precision is {precision}: in a test the clean accuracy is computed in 16 bits, and attacks and "
            "their check in 32",
            "test with --trainer.precision 32-true",
        )
    if any(torch.is_autocast_enabled(device) for device in ("cpu", "cuda")):
        fine = False
        yield warning("autocast is on", "leave it before the evaluation: attacks and their check belong in float32")
    layers = _short_layers(subject) if fine else []
    if layers:
        fine = False
        yield warning(
            f"{len(layers)} layers compute in 16 bits, the first being {layers[0]}",
            "take torch.autocast and half() out of the network's forward, or turn them off in eval mode",
        )
    if fine:
        yield ok("float32 or float64")


def tf32(subject: Subject) -> Iterator[Diagnosis]:
    """Switches of torch that let float32 products be computed in fewer bits."""
    if not subject.tests:
        yield skipped("nothing is tested yet")
        return
    on = [name for name, short in _switches(subject).items() if short]
    if on:
        yield warning(
            f"float32 products may be rounded to TF32 or less: {', '.join(on)}",
            "set NVIDIA_TF32_OVERRIDE=0 in the environment, and leave torch.set_float32_matmul_precision at 'highest', "
            "for the final check of an evaluation",
        )
    else:
        yield ok("float32 products are computed in float32")


def _switches(subject: Subject) -> dict[str, bool]:
    switches = {"torch.get_float32_matmul_precision": torch.get_float32_matmul_precision() != "highest"}
    if _on_cuda(subject.trainer) and os.environ.get("NVIDIA_TF32_OVERRIDE") != "0":
        switches["torch.backends.cudnn.allow_tf32"] = torch.backends.cudnn.allow_tf32
        switches["torch.backends.cuda.matmul.allow_tf32"] = torch.backends.cuda.matmul.allow_tf32
    return switches


def _on_cuda(trainer: Any) -> bool:  # noqa: ANN401 - a mapping of settings
    accelerator = str(trainer.get("accelerator") or "auto")
    return accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())


def _short_layers(subject: Subject) -> list[str]:
    """Layers whose output has 16 bits, in the order in which they run."""
    found: list[str] = []
    parameter = next(subject.network.parameters(), None)
    if parameter is not None and parameter.dtype in _SHORT:
        return ["all of them: the weights have 16 bits"]

    def watch(name: str, module: nn.Module) -> Any:  # noqa: ANN401 - a handle
        def note(_module: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and output.dtype in _SHORT:
                found.append(f"{type(module).__name__}{f' ({name})' if name else ''}")

        return module.register_forward_hook(note)

    handles = [watch(name, module) for name, module in subject.network.named_modules()]
    try:
        x, _, index = subject.few()
        subject.ask(x, index)
    finally:
        for handle in handles:
            handle.remove()
    return list(dict.fromkeys(found))
