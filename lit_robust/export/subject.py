"""What is exported: the network of a run with the weights of one checkpoint, and images to try it on."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

import lit_robust.nn  # noqa: F401 - class names in a config are found among what is imported
from lit_robust import runs
from lit_robust.checks import check_classifier
from lit_robust.data import ImageData
from lit_robust.errors import UserError

IMAGES = 64  # that the exported network has to agree on


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A trained network.

    Attributes:
        run: Folder of the run.
        config: Its settings.
        checkpoint: The file that the weights are of.
        stored: The network's part of that file.
        spec: The network's part of the settings, with whole class paths.
        network: The network with these weights, in eval mode.
        images: Test images in [0, 1], or random ones where the data are not there, (N, C, H, W).
        real: Whether they are test images.
    """

    run: Path
    config: Mapping[str, Any]
    checkpoint: Path
    stored: Mapping[str, Any]
    spec: Mapping[str, Any]
    network: nn.Module
    images: Tensor
    real: bool


def load(run: Path, which: str | None) -> Subject:
    """The network of a run.

    Args:
        run: Folder of the run.
        which: `best`, `last` or a file; None for the best where one was kept, else the last.

    Raises:
        UserError: If there is no such run or checkpoint, it cannot be read safely, its weights are not the network's,
            or the network is no classifier.
    """
    if not run.is_dir():
        raise UserError(f"--run: no run folder {run}")
    config = runs.load_config(run)
    path = runs.checkpoint(run, which) if which in (None, "best", "last") else Path(str(which))
    if path is None:
        raise UserError(f"{run} has no {which or ''} checkpoint; train it first, or give --ckpt_path FILE")
    stored = runs.network_weights(runs.load_checkpoint(path))
    network, spec = built(nn.Module, config["model"]["init_args"]["network"])
    runs.load_weights(network, stored, path)
    data, _ = built(ImageData, config["data"])
    check_classifier(network, data.image_shape, data.num_classes)
    images, real = _images(data, next(network.parameters(), torch.empty(0)).dtype)
    return Subject(
        run=run,
        config=config,
        checkpoint=path,
        stored=stored,
        spec=spec,
        network=network.eval(),
        images=images,
        real=real,
    )


def built(kind: type, spec: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """What a part of a config describes, and that part with whole class paths and all settings.

    Args:
        kind: What it has to be an instance of.
        spec: Class path and arguments.

    Raises:
        UserError: If there is no such class, or it has other settings.
    """
    from jsonargparse import ArgumentError, ArgumentParser  # slow to import

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--part", type=kind)
    try:
        config = parser.parse_object({"part": deepcopy(dict(spec))})  # it is changed in place
    except ArgumentError as error:
        raise UserError(f"the run's config cannot be read: {error}") from error
    plain: dict[str, Any] = yaml.safe_load(parser.dump(config, skip_unset=False))["part"]
    return parser.instantiate(config).part, plain


def _images(data: ImageData, dtype: torch.dtype) -> tuple[Tensor, bool]:
    try:
        x = data.images(train=False).x[:IMAGES].to(dtype)
    except UserError:  # the data are not on this machine
        generator = torch.Generator().manual_seed(0)
        return torch.rand(IMAGES, *data.image_shape, generator=generator).to(dtype), False
    return x / x.new_full((), 255), True
