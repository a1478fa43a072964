"""The expectation of a random model: what an ensemble deploys, and what an attack on it should climb."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from lit_robust.errors import UserError

Reduce = Literal["probs", "log_probs", "logits"]


def passes(model: nn.Module, x: Tensor, n: int) -> Tensor:
    """Outputs of n forward passes in a row, (n·N, ...), those of the first pass first.

    A model that can compute what is not random once has a method `passes(x, n)`, which gives the same: the noise is
    what the passes would draw one by one.

    Args:
        model: The model.
        x: Images (N, C, H, W).
        n: Number of passes.
    """
    own = getattr(model, "passes", None)
    if own is not None:
        outputs: Tensor = own(x, n)
        return outputs
    return torch.cat([model(x) for _ in range(n)])


class Expectation(nn.Module):
    """Several forward passes of a random model as one (expectation over transformation, Athalye et al., 2018).

    The reductions are three different objectives:

    - `probs`: log of the mean softmax. Its prediction is that of the deployed ensemble, and its cross-entropy is the
      ensemble's loss.
    - `log_probs`: mean of the log-softmax. Its negative log-likelihood (`F.nll_loss`, not the cross-entropy) is exactly
      the mean of the draws' cross-entropies, and so is the gradient.
    - `logits`: mean logits. They differ from `log_probs` by a number a sample, so a loss that ignores such a shift, as
      cross-entropy and margins do, cannot tell the two apart.

    Inside `sampling.keyed` the passes count their random layers on from one pass to the next: every pass draws its own
    noise, the first the one of a single forward, none of which depends on the batch. The graphs of all passes live
    until the backward pass.

    Args:
        model: Random model, from images to logits.
        draws: Number of forward passes.
        reduce: What is averaged over them.

    Raises:
        UserError: If `draws` is below 1, or `reduce` is none of the three.

    Attributes:
        deployed: Whether it is the model itself, an ensemble, which an attack may take apart (`single_draws`).
    """

    deployed = False

    def __init__(self, model: nn.Module, draws: int, reduce: Reduce = "probs") -> None:
        super().__init__()
        if draws < 1:
            raise UserError(f"expected draws to be at least 1, got {draws}")
        if reduce not in get_args(Reduce):
            raise UserError(f"expected reduce to be one of {', '.join(get_args(Reduce))}, got {reduce!r}")
        self.model = model
        self.draws = draws
        self.reduce: Reduce = reduce

    def forward(self, x: Tensor) -> Tensor:
        """Reduced outputs (N, classes): log-probabilities, or with `logits` logits.

        Args:
            x: Images (N, C, H, W) in [0, 1].
        """
        return self.passes(x, 1)

    def passes(self, x: Tensor, n: int) -> Tensor:
        """Outputs of n forward passes in a row, (n·N, classes), those of the first pass first; see `passes`.

        Args:
            x: Images (N, C, H, W) in [0, 1].
            n: Number of passes, each of all draws.
        """
        drawn = passes(self.model, x, n * self.draws)
        logits = drawn.reshape(n, self.draws, len(x), *drawn.shape[1:])
        log_probs = logits if self.reduce == "logits" else logits.log_softmax(3)
        reduced = log_probs.logsumexp(1) - math.log(self.draws) if self.reduce == "probs" else log_probs.mean(1)
        return reduced.flatten(0, 1)

    def extra_repr(self) -> str:
        """The settings, for `print(model)`."""
        return f"draws={self.draws}, reduce={self.reduce!r}"


@contextmanager
def single_draws(model: nn.Module) -> Iterator[None]:
    """Lets each ensemble in a model predict by one draw, for an attack that takes the expectation itself.

    Args:
        model: Any module.
    """
    ensembles = [part for part in model.modules() if isinstance(part, Expectation) and part.deployed]
    draws = [ensemble.draws for ensemble in ensembles]
    try:
        for ensemble in ensembles:
            ensemble.draws = 1
        yield
    finally:
        for ensemble, number in zip(ensembles, draws, strict=True):
            ensemble.draws = number
