"""What the network returns, and whether it learned these labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import sqrt

from lit_robust.checks import Answer, ask
from lit_robust.doctor.checks.base import Look
from lit_robust.doctor.diagnosis import Diagnosis, ok, refused, skipped, warning
from lit_robust.doctor.subject import Subject
from lit_robust.errors import UserError

_DEVIATIONS = 3.0  # above chance, in standard deviations of what guessing gives on as many images


def answering(check: Callable[[Answer], None]) -> Look:
    """The look of a check that is made of what a network says to random images.

    Args:
        check: Raises a `UserError`; see `lit_robust.checks`.
    """

    def look(subject: Subject) -> Iterator[Diagnosis]:
        if not subject.classifies:
            yield skipped("the regime trains no classifier")
            return
        try:
            answer = ask(subject.network, subject.data.image_shape, subject.data.num_classes)
            check(answer)
        except UserError as mistake:
            yield refused(mistake)
        else:
            low, high = float(answer.logits.min()), float(answer.logits.max())
            count = " x ".join(map(str, answer.logits.shape[1:]))
            yield ok(f"{answer.name} returns {count} numbers from {low:.3g} to {high:.3g} for random pixels")

    return look


def regime(subject: Subject) -> Iterator[Diagnosis]:
    """What the regime itself refuses: a network that does not fit the data, costs or attacks that do not fit either."""
    if subject.model is None:
        yield skipped("no regime")
        return
    try:
        subject.model.check(subject.data)
    except UserError as mistake:
        yield refused(mistake)
    else:
        yield ok(f"{type(subject.model).__name__} takes the network and the data")


def squashed(subject: Subject) -> Iterator[Diagnosis]:
    """Outputs that lie in [0, 1], as those of a sigmoid do, or sum to 1 where there are images."""
    if not subject.classifies:
        yield skipped("the regime trains no classifier")
        return
    logits = subject.logits.float()
    low, high = float(logits.min()), float(logits.max())
    constant = float((logits - logits[:1]).abs().max()) == 0
    if logits.shape[1] > 1 and low >= 0 and high <= 1 and high > low:
        yield warning(
            f"all outputs for {len(logits)} images lie in [0, 1] ({low:.3g} to {high:.3g}), as a sigmoid's do",
            "return logits: remove the last activation",
        )
    elif constant and len(subject.batch[0]) > 1:
        yield warning(
            f"the outputs are the same for {len(logits)} images",
            "are these the weights, and does the network look at the image?",
        )
    else:
        yield ok(f"logits from {low:.3g} to {high:.3g}")


def accuracy(subject: Subject) -> Iterator[Diagnosis]:
    """Whether loaded weights do better than guessing: labels in another order, or weights of other data, do not."""
    if not subject.trained or not subject.classifies:
        yield skipped("no weights of a classifier were loaded")
        return
    x, y, index = subject.batch
    like = next(subject.network.parameters(), x)
    right = int((subject.ask(x.to(like), index).argmax(1) == y).sum())
    chance, found = 1 / subject.data.num_classes, f"{right} of {len(y)} images are classified as their labels say"
    if right <= len(y) * chance + _DEVIATIONS * sqrt(len(y) * chance * (1 - chance)):
        yield warning(
            f"{found}, no more than guessing gives",
            "are the labels in the order of the training, and are the images standardised as they were there?",
        )
    else:
        yield ok(found)
