"""Loaders that slice batches out of tensors in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import ceil

import torch
from torch import Tensor

from lit_robust import sampling
from lit_robust.data.images import Images
from lit_robust.errors import UserError

Batch = tuple[Tensor, Tensor, Tensor]
"""Images (N, C, H, W), labels (N,) int64, positions in the underlying data set (N,) int64."""


def _take(images: Images, index: Tensor) -> Batch:
    # Copies whole images: a twentieth of the time that images.x[index] takes.
    return images.x.index_select(0, index), images.y.index_select(0, index), index


def _start() -> tuple[int, int]:
    return 0, 0


class BatchLoader:
    """Training batches in an order that is a pure function of seed and epoch.

    A step's batches on all ranks together are a slice of that order, so that two processes with batches of 64 see what
    one with batches of 128 sees. Resuming: Lightning asks for `state_dict` when it saves a checkpoint, and calls
    `load_state_dict` when it resumes within an epoch; the next iteration then starts after the batches that the trainer
    has counted as done.

    Args:
        images: The underlying data set.
        indices: Positions of the samples to train on, (M,) int64.
        batch_size: Samples a batch and rank; the last batch may be shorter.
        seed: Seed of the order.
        rank: Rank of this process.
        world_size: Number of processes. The order is wrapped around until each gets the same number of samples.
        position: Asked when an iteration yields its first batch: the epoch, and the batches of it that are done.
    """

    def __init__(
        self,
        images: Images,
        indices: Tensor,
        batch_size: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        position: Callable[[], tuple[int, int]] = _start,
    ) -> None:
        """See the class."""
        self.images = images
        self.indices = indices
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.position = position
        self._resumed: dict[str, int] | None = None

    def __len__(self) -> int:
        """Batches of this rank in an epoch, the same for every rank."""
        return ceil(ceil(len(self.indices) / self.world_size) / self.batch_size)

    def order(self, epoch: int) -> Tensor:
        """Positions of this rank's samples in an epoch, in the order of training, (ceil(M / world_size),) int64."""
        keys = sampling.keys(self.indices, seed=self.seed, epoch=epoch)
        order = self.indices[sampling.Noise(keys).uniform("order", (), dtype=torch.float64).argsort(stable=True)]
        # Sample k of the padded order belongs to rank k % world_size.
        padded = torch.arange(ceil(len(order) / self.world_size) * self.world_size) % max(len(order), 1)
        return order[padded[self.rank :: self.world_size]]

    def __iter__(self) -> Iterator[Batch]:
        """Yields the batches of the current epoch that are not done yet."""
        # Lightning creates the iterator before it has restored its counters; this body runs at the first `next`.
        epoch, done = self.position()
        resumed, self._resumed = self._resumed, None
        if resumed is None:
            done = 0
        elif done:
            self._check(resumed)
        for index in torch.split(self.order(epoch), self.batch_size)[done:]:
            yield _take(self.images, index)

    def state_dict(self) -> dict[str, int]:
        """What the order depends on besides the epoch; how far the epoch is, is in the trainer's own counters."""
        return {
            "seed": self.seed,
            "samples": len(self.indices),
            "batch_size": self.batch_size,
            "world_size": self.world_size,
        }

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Makes the next iteration go on within its epoch.

        Args:
            state_dict: What `state_dict` returned when the checkpoint was saved.
        """
        self._resumed = dict(state_dict)

    def _check(self, resumed: dict[str, int]) -> None:
        now = self.state_dict()
        changed = [f"{name} {resumed.get(name)}, now {now[name]}" for name in now if resumed.get(name) != now[name]]
        if changed:
            raise UserError(
                f"the checkpoint was saved within an epoch of other batches ({'; '.join(changed)}), so its remaining "
                "batches are not known: resume with the same settings, or from a checkpoint of the end of an epoch"
            )


class BlockLoader:
    """Evaluation batches: fixed blocks of consecutive samples, dealt to the ranks in turn, no sample twice.

    Args:
        images: The underlying data set.
        indices: Positions of the samples to evaluate, (M,) int64; block b holds entries b * B to (b + 1) * B - 1.
        block_size: Samples a block, B; the last block may be shorter.
        rank: Rank of this process; block b belongs to rank b % world_size.
        world_size: Number of processes. Ranks may get different numbers of blocks.
    """

    def __init__(self, images: Images, indices: Tensor, block_size: int, *, rank: int = 0, world_size: int = 1) -> None:
        """See the class."""
        self.images = images
        self.blocks = torch.split(indices, block_size)[rank::world_size] if len(indices) else ()

    def __len__(self) -> int:
        """Blocks of this rank."""
        return len(self.blocks)

    def __iter__(self) -> Iterator[Batch]:
        """Yields the blocks of this rank in ascending order."""
        for index in self.blocks:
            yield _take(self.images, index)
