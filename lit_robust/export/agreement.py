"""Whether an exported network is the one that it was made of: the same logits, bit for bit."""

from __future__ import annotations

import importlib.util
import runpy
from pathlib import Path

import torch
from torch import Tensor, nn

from lit_robust import sampling
from lit_robust.errors import UserError
from lit_robust.export.files import LOAD, SAFETENSORS, WEIGHTS
from lit_robust.export.subject import Subject

_BLOCK = 32  # images a pass


def check_export(folder: Path, subject: Subject) -> list[str]:
    """Rebuilds the network by the exported script from each file of weights, and runs it against the original.

    Args:
        folder: The files of the export.
        subject: The original.

    Returns:
        Names of the files of weights that agree.

    Raises:
        UserError: If the script does not rebuild the network, or a logit differs.
    """
    expected = logits(subject.network, subject.images)
    files = [name for name in (WEIGHTS, SAFETENSORS) if (folder / name).is_file()]
    if importlib.util.find_spec("safetensors") is None:
        files = files[:1]
    for name in files:
        try:
            rebuilt: nn.Module = runpy.run_path(str(folder / LOAD))["load"](folder.resolve() / name)
        except Exception as error:  # the network's code may raise anything
            raise UserError(
                f"the exported network cannot be rebuilt from {name}: {str(error).strip() or type(error).__name__}"
            ) from error
        _compare(expected, logits(rebuilt, subject.images), name)
    return files


def _compare(expected: Tensor, found: Tensor, name: str) -> None:
    differ = (expected != found).any(1) if expected.shape == found.shape else torch.ones(len(expected)).bool()
    if differ.any():
        raise UserError(
            f"the network rebuilt from {name} is another one: {int(differ.sum())} of {len(differ)} images have other "
            "logits. It depends on something that is neither in its state dict nor in its config, such as an attribute "
            "set while training; make that a buffer (register_buffer) or an argument of the constructor"
        )


def logits(network: nn.Module, images: Tensor) -> Tensor:
    """Logits of images without gradients, (N, classes); random layers draw the noise of each image's position."""
    with torch.no_grad():
        parts = []
        for index in torch.split(torch.arange(len(images)), _BLOCK):
            with sampling.keyed(sampling.keys(index)):
                parts.append(network(images[index]))
        return torch.cat(parts)
