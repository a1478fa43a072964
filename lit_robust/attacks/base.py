"""What every attack is: a frozen configuration that is called with a model and images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from lit_robust import sampling
from lit_robust.losses import labels
from lit_robust.sampling import Noise
from lit_robust.threat import ThreatModel


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """Searches a threat model for images that a model gets wrong.

    `x_adv = attack(model, x, y)`. The model maps images in [0, 1] to logits; the attack leaves its train or eval mode
    alone. A subclass states its `threat` and writes `search`.
    """

    @property
    @abstractmethod
    def threat_model(self) -> ThreatModel:
        """The images that it may answer with."""

    @abstractmethod
    def search(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """The search itself, with gradients on and parameters frozen.

        Args:
            model: Images in [0, 1] to logits.
            x: Images in [0, 1], (N, C, H, W); not to be changed in place.
            y: Labels (N,) or class probabilities (N, C); for a targeted attack, those to reach.
            noise: Random streams of the samples.

        Returns:
            x_adv, (N, C, H, W).
        """

    def falsify(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise, *, leave: bool = True) -> Tensor:
        """The search in evaluation, which asks only whether a sample can be broken.

        An attack that sees the prediction on its way returns the first adversarial of each sample.

        Args:
            model: As for `search`.
            x: As for `search`.
            y: As for `search`.
            noise: As for `search`.
            leave: Broken samples leave the batch. False computes all steps for all of them, and is there to check that
                leaving changes no verdict.
        """
        del leave  # unused where the search sees no prediction
        return self.search(model, x, y, noise)

    @property
    def adversarial(self) -> bool:
        """Whether it looks at the model; noise does not, and is reported as noise."""
        return True

    @property
    def label(self) -> str:
        """A short name, for the progress bar."""
        return type(self).__name__

    @property
    def targeted(self) -> bool:
        """Whether `y` is the class to reach instead of the one to leave."""
        return False

    def passes(self, classes: int) -> tuple[int, int] | None:
        """The most forward and backward passes that a sample takes, or None if nobody knows.

        Args:
            classes: Number of classes.
        """
        del classes
        return None

    def broken(self, logits: Tensor, y: Tensor) -> Tensor:
        """Whether each sample counts as broken, (N,): not classified as `y`, or, targeted, classified as `y`."""
        return (logits.argmax(1) == labels(y)) == self.targeted

    @final
    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, key: Tensor | None = None) -> Tensor:
        """Adversarial images.

        Args:
            model: Images in [0, 1] to logits.
            x: Images in [0, 1], (N, C, H, W).
            y: Labels, (N,) int64, or class probabilities, (N, C).
            key: One noise stream a sample, (N,) int64; see `sampling.keys`. Drawn from torch's generator if None.

        Returns:
            x_adv, (N, C, H, W), inside the threat model.

        Raises:
            ValueError: If images lie outside [0, 1] or shapes do not fit.
        """
        with searching(model):
            return self.search(model, *prepare(x, y, key)).detach()


def prepare(x: Tensor, y: Tensor, key: Tensor | None) -> tuple[Tensor, Tensor, Noise]:
    """Checks a batch and copies it, since an inference tensor cannot enter a graph.

    Raises:
        ValueError: If images lie outside [0, 1] or are not floating point, or shapes do not fit.
    """
    if not x.is_floating_point():
        raise ValueError(f"expected floating-point images in [0, 1], got {x.dtype}; divide 8-bit images by 255")
    if len(x) != len(y):
        raise ValueError(f"expected as many labels as images, got {len(y)} for {len(x)}")
    if len(x) and not (x.amin() >= 0 and x.amax() <= 1):
        raise ValueError(
            f"expected images in [0, 1], got values from {x.amin():.4g} to {x.amax():.4g}; standardisation belongs "
            "inside the model (lit_robust.nn.Standardize)"
        )
    noise = Noise(sampling.fresh_keys(len(x), x.device) if key is None else key.to(x.device))
    if len(noise.key) != len(x):
        raise ValueError(f"expected as many keys as images, got {len(noise.key)} for {len(x)}")
    return x.detach().clone(), y.detach().clone(), noise


@contextmanager
def searching(model: nn.Module) -> Iterator[None]:
    """Gradients on, also inside Lightning's inference mode, and the parameters out of the graph meanwhile."""
    learning = [p for p in model.parameters() if p.requires_grad]
    with torch.inference_mode(False), torch.enable_grad():
        for p in learning:
            p.requires_grad_(False)
        try:
            yield
        finally:
            for p in learning:
                p.requires_grad_(True)
