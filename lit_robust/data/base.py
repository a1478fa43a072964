"""The data module of a set of images that fits in memory."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import TypedDict

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from lit_robust import sampling
from lit_robust.data.augment import Augment
from lit_robust.data.images import Images
from lit_robust.data.loader import Batch, BatchLoader, BlockLoader
from lit_robust.data.shape import Resize, conform
from lit_robust.data.split import stratified
from lit_robust.errors import UserError


class Options(TypedDict, total=False):
    """The keyword arguments of `ImageData`, for the constructors of its subclasses."""

    batch_size: int
    eval_batch_size: int
    val_split: float
    size: int | None
    channels: int | None
    resize: Resize
    augment: Augment | None
    seed: int


class ImageData(LightningDataModule, ABC):
    """Images with labels, in memory as uint8, of which batches are slices.

    Batches reach the model as `(x, y, index)`: images (N, C, H, W) in [0, 1], labels (N,), and the samples' positions
    (N,) in the training set (training and validation) or in the test set. `num_classes`, `classes`, `image_shape` and
    `name` are known without loading anything.
    """

    def __init__(
        self,
        *,
        batch_size: int = 128,
        eval_batch_size: int = 256,
        val_split: float = 0.1,
        size: int | None = None,
        channels: int | None = None,
        resize: Resize = "resize",
        augment: Augment | None = None,
        seed: int = 0,
    ) -> None:
        """Checks the options; loads nothing.

        Args:
            batch_size: Training samples a step and device.
            eval_batch_size: Samples a block of validation and test. Results may depend on it in their last bits.
            val_split: Fraction of the training set that is held out for validation, in [0, 1); with 0 there is no
                validation.
            size: Side of the images in pixels, or None for their own; see `resize`.
            channels: 1 (grey, by luma) or 3 (grey repeated), or None for the images' own.
            resize: How images of another size get there: scaled bilinearly with the centre cropped, or padded with
                zeros.
            augment: Random crops and flips of the training images, or None.
            seed: Seed of the choice of the validation images, which does not depend on the seed of the run.

        Raises:
            UserError: If an option is outside its range.
        """
        super().__init__()
        for option, value in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size), ("size", size)):
            if value is not None and value <= 0:
                raise UserError(f"expected data.{option} of at least 1, got {value}")
        if not 0 <= val_split < 1:
            raise UserError(
                f"expected data.val_split in [0, 1), the fraction of the training set for validation, got {val_split}"
            )
        if channels not in (None, 1, 3):
            raise UserError(f"expected data.channels of 1 (grey), 3 (colour) or null (the images' own), got {channels}")
        if resize not in ("resize", "pad"):
            raise UserError(f"expected data.resize to be resize or pad, got {resize}")
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.val_split = val_split
        self.size = size
        self.channels = channels
        self.resize: Resize = resize
        self.augment = augment
        self.seed = seed
        self.name: str = type(self).__name__
        self._loaded: dict[bool, Images] = {}

    @property
    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; label y is `classes[y]`."""

    @property
    @abstractmethod
    def native_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of what `load` returns."""

    @abstractmethod
    def load(self, train: bool) -> Images:
        """Reads the training or the test set as it is stored.

        Args:
            train: Whether to read the training set.

        Returns:
            The images, in an order that never changes.
        """

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images that the model gets."""
        channels, height, width = self.native_shape
        return self.channels or channels, self.size or height, self.size or width

    @property
    def channels_out(self) -> int:
        """Channels of the images that the model gets."""
        return self.image_shape[0]

    def images(self, train: bool) -> Images:
        """The training or the test set, at `image_shape`; loaded at the first call.

        Args:
            train: Whether to return the training set.

        Raises:
            UserError: If the set is empty or cannot be read.
        """
        if train not in self._loaded:
            stored = self.load(train)
            if not len(stored):
                raise UserError(f"the {'training' if train else 'test'} set of {self.name} has no images")
            x = conform(stored.x, size=self.size, channels=self.channels, resize=self.resize)
            self._loaded[train] = Images(x, stored.y, stored.classes)
        return self._loaded[train]

    @cached_property
    def split(self) -> tuple[Tensor, Tensor]:
        """Positions in the training set that are trained on and that are validated on, ascending, int64.

        Raises:
            UserError: If one of them would be empty.
        """
        y = self.images(train=True).y
        count = round(self.val_split * len(y))
        if self.val_split and not 0 < count < len(y):
            raise UserError(
                f"data.val_split={self.val_split} of {len(y)} training images leaves {len(y) - count} for training and "
                f"{count} for validation; both need one at least, or set data.val_split=0 to go without validation"
            )
        held_out = stratified(y, count, seed=self.seed)
        return (~held_out).nonzero()[:, 0], held_out.nonzero()[:, 0]

    def setup(self, stage: str) -> None:
        """Loads what a stage needs, once.

        Args:
            stage: `"fit"`, `"validate"`, `"test"` or `"predict"`.
        """
        if stage in ("fit", "validate"):
            _ = self.split
        else:
            self.images(train=False)

    def train_dataloader(self) -> BatchLoader:
        """The batches of the training set without its validation part, shuffled by the seed of the run."""
        return BatchLoader(
            self.images(train=True),
            self.split[0],
            self.batch_size,
            seed=sampling.run_seed(),
            rank=self._rank,
            world_size=self._world_size,
            position=self._position,
        )

    def val_dataloader(self) -> BlockLoader | list[BlockLoader]:
        """The blocks of the validation part; no loader at all if there is none."""
        return self._blocks(train=True, indices=self.split[1]) if self.val_split else []

    def test_dataloader(self) -> BlockLoader:
        """The blocks of the test set."""
        return self._blocks(train=False, indices=torch.arange(len(self.images(train=False))))

    def predict_dataloader(self) -> BlockLoader:
        """The blocks of the test set."""
        return self.test_dataloader()

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augments training images, and brings all images from bytes to [0, 1].

        Args:
            batch: Images (N, C, H, W) uint8, labels (N,), positions (N,), on the device.
            dataloader_idx: Not used.

        Returns:
            The same with images in [0, 1], in the floating-point type of the network.
        """
        x, y, index = batch
        if self.augment is not None and self.trainer is not None and self.trainer.training:
            key = sampling.keys(index, seed=sampling.run_seed(), epoch=self.trainer.current_epoch)
            x = self.augmented(self.augment, x, index, key)
        # Divided by a tensor: by a number, CUDA multiplies with the rounded reciprocal, and differs from the CPU.
        module = getattr(self.trainer, "lightning_module", None)
        dtype = torch.float32 if module is None else module.dtype
        return x.to(dtype) / x.new_full((), 255, dtype=dtype), y, index

    def augmented(self, augment: Augment, x: Tensor, index: Tensor, key: Tensor) -> Tensor:
        """Training images as the network sees them.

        Args:
            augment: Crops and flips.
            x: Images (N, C, H, W) uint8, on the device.
            index: Their positions in the training set, (N,).
            key: One noise stream a sample, (N,) int64.
        """
        return augment(x, key)

    def _blocks(self, train: bool, indices: Tensor) -> BlockLoader:
        fitting = max(len(indices) // self._world_size, 1)
        if ceil(len(indices) / self.eval_batch_size) < self._world_size:
            # Lightning skips the hooks of a process without batches, and the others would wait for it for ever.
            raise UserError(
                f"{len(indices)} {'validation' if train else 'test'} images in blocks of {self.eval_batch_size} leave "
                f"some of {self._world_size} processes without any; set data.eval_batch_size to {fitting}, or "
                "use fewer devices"
            )
        images = self.images(train)
        return BlockLoader(images, indices, self.eval_batch_size, rank=self._rank, world_size=self._world_size)

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer is not None else 0

    @property
    def _world_size(self) -> int:
        return self.trainer.world_size if self.trainer is not None else 1

    def _position(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 0
        # Over-fitting is to the same batches in every epoch.
        epoch = 0 if getattr(self.trainer, "overfit_batches", 0) else self.trainer.current_epoch
        return epoch, self.trainer.fit_loop.batch_idx + 1


def data_root(root: str | None) -> Path:
    """The folder that a data set's files are looked for in: `root`, else $LIT_ROBUST_DATA, else `data`."""
    return Path(root or os.environ.get("LIT_ROBUST_DATA") or "data").expanduser()
