"""What a test is about: the network of a regime, the data module of a trainer, and its first test images."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from lit_robust.errors import UserError

Batch = tuple[Tensor, Tensor, Tensor]  # images (N, C, H, W), labels (N,), indices (N,)


def data_of(trainer: pl.Trainer) -> Any:  # noqa: ANN401 - a data module of lit_robust.data, which callbacks do not import
    """The data module.

    Raises:
        UserError: If there is none.
    """
    data = getattr(trainer, "datamodule", None)
    if data is None:
        raise UserError("RobustEval deals the data in fixed blocks and needs a data module of lit_robust.data")
    return data


def network_of(pl_module: pl.LightningModule) -> nn.Module:
    """The network of a regime, whose layers are called as in its config; any other module itself."""
    network = getattr(pl_module, "network", None)
    return network if isinstance(network, nn.Module) else pl_module


def first_blocks(trainer: pl.Trainer, pl_module: pl.LightningModule, count: int) -> list[Batch]:
    """The first test images in blocks, as the test itself gets them, or as many as are tested.

    Args:
        trainer: The trainer of the test, with its data module.
        pl_module: The classifier, on whose device they are put.
        count: How many images at most.
    """
    data, device = data_of(trainer), pl_module.device
    images, size = data.images(train=False), data.eval_batch_size
    tested = int(sum(trainer.num_test_batches)) * size * trainer.world_size
    last = min(count, len(images), tested)
    found = []
    for start in range(0, last, size):
        index = torch.arange(start, min(start + size, last))
        batch = images.x[index].to(device), images.y[index].to(device), index.to(device)
        found.append(data.on_after_batch_transfer(batch, 0))
    return found
