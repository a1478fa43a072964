"""Attack objectives: one value a sample, never averaged, so that a sample's gradient does not depend on its batch.

`y` is labels (N,) or class probabilities (N, C). All of them grow as the prediction leaves `y`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_robust.errors import UserError


def labels(y: Tensor) -> Tensor:
    """Labels (N,) of labels or of class probabilities (N, C)."""
    return y if y.ndim == 1 else y.argmax(1)


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """z_y − max over j ≠ y of z_j, (N,): positive where the prediction is `y`.

    Args:
        logits: (N, C).
        y: Labels (N,) or class probabilities (N, C).
    """
    target = labels(y)[:, None]
    others = logits.scatter(1, target, -torch.inf).amax(1)
    return logits.gather(1, target).squeeze(1) - others


def likeliest_wrong(logits: Tensor, y: Tensor, count: int) -> Tensor:
    """The classes of the largest logits other than `y`, likeliest first, (N, K): all wrong ones if they are fewer.

    Args:
        logits: (N, C).
        y: Labels (N,) or class probabilities (N, C).
        count: K at most.
    """
    others = logits.scatter(1, labels(y)[:, None], -torch.inf)
    classes: Tensor = others.topk(min(count, logits.shape[1] - 1), dim=1).indices
    return classes


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy, (N,); with probabilities for `y`, up to a constant, KL(y ‖ softmax of the logits)."""
    return F.cross_entropy(logits, y, reduction="none")


def negative_log_likelihood(log_probs: Tensor, y: Tensor) -> Tensor:
    """Minus the log-probability of `y`, (N,), for models that return log-probabilities, such as `Expectation`."""
    return -log_probs.gather(1, labels(y)[:, None]).squeeze(1)


def negative_margin(logits: Tensor, y: Tensor) -> Tensor:
    """The negative of `margin`, (N,): the margin loss without a floor."""
    return -margin(logits, y)


def cw_margin(logits: Tensor, y: Tensor) -> Tensor:
    """−max(margin + 50, 0), (N,): the margin of Carlini and Wagner (2017) with the dissertation's confidence of 50.

    The gradient ends only where a wrong logit leads by more than 50.
    """
    return -F.relu(margin(logits, y) + 50.0)


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio, (N,) (Croce and Hein, 2020, Eq. 6); needs at least 3 classes.

    Raises:
        UserError: If there are fewer than 3 classes.
    """
    if logits.shape[1] < 3:
        raise UserError(f"the DLR loss needs at least 3 classes, got {logits.shape[1]}; use negative_margin")
    top = logits.topk(3, dim=1).values
    return -margin(logits, y) / (top[:, 0] - top[:, 2] + 1e-12)


def targeted_dlr(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Targeted difference of logits ratio, (N,) (Croce and Hein, 2020, Eq. 7); needs at least 4 classes.

    (z_target − z_y) / (z_1 − (z_3 + z_4) / 2), with z_1 ≥ z_2 ≥ ... the sorted logits of the denominator. It grows as
    the target gains on `y`.

    Args:
        logits: (N, C).
        y: Labels (N,) or class probabilities (N, C), of the class to leave.
        target: Labels of the class to reach, (N,).

    Raises:
        UserError: If there are fewer than 4 classes.
    """
    if logits.shape[1] < 4:
        raise UserError(
            f"the targeted DLR loss needs at least 4 classes, got {logits.shape[1]}; use the difference of two logits"
        )
    top = logits.topk(4, dim=1).values
    lead = (logits.gather(1, target[:, None]) - logits.gather(1, labels(y)[:, None])).squeeze(1)
    return lead / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12)
