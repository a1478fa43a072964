"""What a classifier must be before long work starts: images in [0, 1] to logits, one a class.

Each mistake is found by a function of its own; `check_classifier` and the doctor call the same ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lit_robust.errors import UserError
from lit_robust.modes import network_mode

_PROBES = 4  # images of random pixels that the network is tried on


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a network says to random images.

    Attributes:
        name: What the network is called.
        said: What it returned, whatever that is.
        classes: Classes of the data.
    """

    name: str
    said: object
    classes: int

    @property
    def logits(self) -> Tensor:
        """What it returned, which is a tensor already."""
        assert isinstance(self.said, Tensor), "checked before"
        return self.said


def ask(network: nn.Module, image_shape: tuple[int, ...], num_classes: int) -> Answer:
    """Tries a network on random images.

    Args:
        network: Any module; its mode and statistics stay as they are.
        image_shape: (C, H, W) of the data.
        num_classes: Classes of the data.

    Raises:
        UserError: If it does not take the images.
    """
    generator = torch.Generator().manual_seed(0)
    parameter = next(network.parameters(), torch.empty(0))
    x = torch.rand(_PROBES, *image_shape, generator=generator).to(parameter)
    shape, name = "x".join(map(str, image_shape)), type(network).__name__
    try:
        with network_mode(network, train=False), torch.no_grad():
            said = network(x)
    except (ValueError, RuntimeError, TypeError, IndexError) as error:
        raise UserError(f"{name} does not take the data's {shape} images: {error}") from error
    return Answer(name=name, said=said, classes=num_classes)


def check_tensor(answer: Answer) -> None:
    """Refuses anything but a tensor, such as the tuple of a network with auxiliary outputs."""
    if not isinstance(answer.said, Tensor):
        kind = type(answer.said).__name__
        raise UserError(
            f"expected {answer.name} to return a tensor of logits, got {kind}; wrap it in a module that returns the "
            "logits"
        )


def check_class_count(answer: Answer) -> None:
    """Refuses another number of logits than classes."""
    shape, classes = tuple(answer.logits.shape), answer.classes
    if shape != (_PROBES, classes):
        raise UserError(
            f"expected {answer.name} to return {classes} logits an image, one for each class of the data, got shape "
            f"{shape} for {_PROBES} images; set num_classes: {classes} or choose other data"
        )


def check_finite(answer: Answer) -> None:
    """Refuses logits that are not finite."""
    if not answer.logits.isfinite().all():
        raise UserError(f"{answer.name} returns logits that are not finite on random images; its weights are of no use")


def check_no_probabilities(answer: Answer) -> None:
    """Refuses probabilities: not negative, and 1 in sum."""
    logits, sums = answer.logits, answer.logits.float().sum(1)
    if logits.min() >= 0 and answer.classes > 1 and torch.allclose(sums, torch.ones_like(sums), atol=1e-4):
        raise UserError(
            f"{answer.name} returns probabilities, where logits are expected: gradients of saturated probabilities "
            "vanish and robustness is overestimated; remove the final softmax"
        )


ANSWER_CHECKS: dict[str, Callable[[Answer], None]] = {
    "output is a tensor": check_tensor,
    "class count": check_class_count,
    "finite logits": check_finite,
    "logits, not probabilities": check_no_probabilities,
}
"""What is asked of an answer by name, each after those before it have passed."""


def check_classifier(network: nn.Module, image_shape: tuple[int, ...], num_classes: int) -> None:
    """Tries a network on random images.

    Args:
        network: Any module; its mode and statistics stay as they are.
        image_shape: (C, H, W) of the data.
        num_classes: Classes of the data.

    Raises:
        UserError: If it does not take the images, does not return one logit a class, or returns probabilities.
    """
    answer = ask(network, image_shape, num_classes)
    for check in ANSWER_CHECKS.values():
        check(answer)
