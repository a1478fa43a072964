"""A substitute network that has learned what a model says, for attacks that know nothing else of it."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_robust import sampling

_BATCH, _EPOCHS, _CHUNK = 100, 10, 100


class Substitute(nn.Module):
    """Two strided convolutions and a hidden layer, for images of any shape of 4 pixels or more.

    Args:
        shape: Shape of an image, (C, H, W).
        classes: Number of classes.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, *sides = shape
        self.conv1 = nn.Conv2d(channels, 16, 5, stride=2, padding=2)
        self.conv2 = nn.Conv2d(16, 32, 5, stride=2, padding=2)
        height, width = (((side + 1) // 2 + 1) // 2 for side in sides)
        self.hidden = nn.Linear(32 * height * width, 100)
        self.linear = nn.Linear(100, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, C, H, W) in [0, 1]."""
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        return cast(Tensor, self.linear(F.relu(self.hidden(x.flatten(1)))))


def train_substitute(
    model: nn.Module, images: Tensor, classes: int, *, like: Tensor, seed: int = 0, count: int = 6000
) -> Substitute:
    """Trains a substitute on the predictions of a model (Papernot et al., 2017, without augmentation).

    The same model, images and seed give the same substitute; torch's own generator is left alone.

    Args:
        model: Images in [0, 1] to logits, in eval mode.
        images: Training images, (M, C, H, W) uint8, whose labels nobody looks at.
        classes: Number of classes.
        like: A tensor of the device and floating-point type of the model.
        seed: Seed of the weights, the order and the noise of a random model.
        count: Images that are looked at, at most.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(images), generator=generator)[:count]
    said = torch.cat([_predictions(model, images, part, like, seed) for part in torch.split(chosen, _CHUNK)])
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        torch.manual_seed(seed)
        substitute = Substitute(tuple(images.shape[1:]), classes).to(like)  # type: ignore[arg-type]
        optimizer = torch.optim.Adam(substitute.parameters(), lr=2e-3)
        for _ in range(_EPOCHS):
            for part in torch.split(torch.randperm(len(chosen), generator=generator), _BATCH):
                x, y = _pixels(images[chosen[part]], like), said[part]
                optimizer.zero_grad()
                torch.autograd.backward(F.cross_entropy(substitute(x), y.to(like.device)))
                optimizer.step()
    return substitute.eval().requires_grad_(False)


def _pixels(images: Tensor, like: Tensor) -> Tensor:
    return images.to(like) / 255


def _predictions(model: nn.Module, images: Tensor, part: Tensor, like: Tensor, seed: int) -> Tensor:
    keys = sampling.keys(part.to(like.device), seed=seed)
    with torch.no_grad(), sampling.keyed(keys):
        predicted: Tensor = model(_pixels(images[part], like)).argmax(1).cpu()
    return predicted
