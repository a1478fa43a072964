"""A sparse code after each stage of its encoder, and how much of it each stage leaves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lit_robust.errors import UserError
from lit_robust.nn.sparse_encoder import SparseEncoder
from lit_robust.sampling import Noise

_STAGES = ("top", "dropout", "activation")


def sparse_encoder(network: nn.Module) -> SparseEncoder:
    """The one sparse encoder of a network.

    Raises:
        UserError: If it has none, or several.
    """
    found = [module for module in network.modules() if isinstance(module, SparseEncoder)]
    if len(found) != 1:
        raise UserError(f"expected a network with one SparseEncoder, got {type(network).__name__} with {len(found)}")
    return found[0]


def code_stages(encoder: SparseEncoder, x: Tensor, noise: Noise) -> dict[str, Tensor]:
    """The code after each of the encoder's stages (dissertation, Fig. 4.11).

    Args:
        encoder: The encoder, in eval mode.
        x: Images (N, C, H, W) in [0, 1].
        noise: Random streams of the samples; all stages see the same draw.

    Returns:
        (N, L, H', W') each: `projection`, and those of `top`, `dropout` and `activation` that the encoder has.
    """
    stages = {}
    for last in ("projection", *_STAGES):
        if last == "projection" or getattr(encoder, last) is not None:
            with _cut_after(encoder, last), torch.no_grad(), noise.keyed():
                stages[last] = encoder(x).contiguous()
    return stages


@contextmanager
def _cut_after(encoder: SparseEncoder, last: str) -> Iterator[None]:
    """The encoder without the stages behind one; afterwards whole again."""
    own = {name: getattr(encoder, name) for name in _STAGES}
    try:
        for name in _STAGES[0 if last == "projection" else _STAGES.index(last) + 1 :]:
            setattr(encoder, name, None)
        yield
    finally:
        for name, module in own.items():
            setattr(encoder, name, module)
