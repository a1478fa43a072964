"""What is checked: a network, data, attacks and the settings of a trainer, and a few images to try them on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from lightning.pytorch import Callback
from torch import Tensor, nn

from lit_robust import sampling
from lit_robust.attacks import Attack
from lit_robust.callbacks import RobustEval
from lit_robust.data import ImageData
from lit_robust.errors import UserError
from lit_robust.modes import network_mode
from lit_robust.regimes import RobustClassifier
from lit_robust.regimes.autoencoder import Autoencoder
from lit_robust.regimes.dictionary_learning import DictionaryLearning

Stage = Literal["fit", "validate", "test", "predict"]
Batch = tuple[Tensor, Tensor, Tensor]  # images as the network gets them (N, C, H, W), labels (N,), indices (N,)
_IMAGES = 64  # looked at, spread over the set
FEW = 4  # of these, that the network is asked about


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A run before it starts.

    Attributes:
        network: Images in [0, 1] to logits.
        data: The data module.
        attacks: Attacks by where the config names them, such as `evaluation.attacks.pgd`.
        trainer: Settings of the trainer by name; what is not there has Lightning's default.
        model: The regime that trains the network; None for a network alone.
        evaluation: What attacks it in a test; None for no evaluation.
        callbacks: Further callbacks of the trainer.
        stage: What is about to start, which decides the images that are looked at: those of the training set for
            `fit` and `validate`, else of the test set. None for all stages.
        trained: Whether weights were loaded.
    """

    network: nn.Module
    data: ImageData
    attacks: Mapping[str, Attack] = field(default_factory=dict)
    trainer: Mapping[str, Any] = field(default_factory=dict)
    model: RobustClassifier | None = None
    evaluation: RobustEval | None = None
    callbacks: Sequence[Callback] = ()
    stage: Stage | None = None
    trained: bool = False

    @property
    def classifies(self) -> bool:
        """Whether the network is to return logits; an autoencoder returns images, and a dictionary codes."""
        return not isinstance(self.model, Autoencoder | DictionaryLearning)

    @property
    def tests(self) -> bool:
        """Whether a test is about to start, or might be."""
        return self.stage in (None, "test")

    @cached_property
    def batch(self) -> Batch:
        """Images spread over the set, as the data module hands them to a network.

        Raises:
            UserError: If the data cannot be read.
        """
        images = self._images(train=self.stage in ("fit", "validate"))
        index = torch.linspace(0, len(images) - 1, min(_IMAGES, len(images)), dtype=torch.float64).long()
        x, y, index = self.data.on_after_batch_transfer((images.x[index], images.y[index], index), 0)
        return x, y, index

    def few(self, skip: int = 0) -> Batch:
        """A few of these, in the floating-point type of the network.

        Args:
            skip: How many to leave out before.
        """
        like = next(self.network.parameters(), torch.empty(0))
        x, y, index = self.batch
        rows = (torch.arange(FEW) + skip) % len(x)
        return x[rows].to(like), y[rows].to(like.device), index[rows].to(like.device)

    def ask(self, x: Tensor, index: Tensor, *, seed: int = 0) -> Tensor:
        """What the network says in eval mode, without a gradient.

        Args:
            x: Images, (N, C, H, W).
            index: Positions of the samples, which key the noise of random layers, (N,).
            seed: Seed of torch's own generator, which is put back afterwards.
        """
        keyed = sampling.Noise(sampling.keys(index)).keyed(sampling.CHECK)
        with network_mode(self.network, train=False), torch.no_grad(), torch.random.fork_rng(devices=[]), keyed:
            torch.manual_seed(seed)
            logits: Tensor = self.network(x)
        return logits

    @cached_property
    def logits(self) -> Tensor:
        """What the network says to the few images, (4, classes)."""
        x, _, index = self.few()
        return self.ask(x, index)

    def _images(self, train: bool) -> Any:  # noqa: ANN401 - `lit_robust.data.images.Images`
        try:
            return self.data.images(train=train)
        except UserError:
            self.data.prepare_data()  # as the trainer will: downloads what is missing, or says why it cannot
            return self.data.images(train=train)
