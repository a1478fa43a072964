"""Blocks that fell silent: an error in place of a network that learns nothing more."""

from __future__ import annotations

import torch
from torch import nn

from lit_robust.errors import UserError
from lit_robust.nn import DivisiveNorm
from lit_robust.nn.divisive_norm import SILENT


class CollapsedBlockError(UserError):
    """A block lets nothing through on most images; the last checkpoint is from before."""


def refuse_collapse(network: nn.Module, epoch: int) -> None:
    """Looks at what each divisive normalisation saw in the last forward pass in train mode.

    Raises:
        CollapsedBlockError: If the largest channel mean of one is below 1e-6 on over half of the batch.
    """
    shares = {
        name: norm.silent
        for name, norm in network.named_modules()
        if isinstance(norm, DivisiveNorm) and norm.silent is not None
    }
    if not shares or not bool((torch.stack(list(shares.values())) > 0.5).any()):
        return
    name, share = next((name.removesuffix(".norm"), float(s)) for name, s in shares.items() if s > 0.5)
    raise CollapsedBlockError(
        f"{name} collapsed in epoch {epoch}: its largest channel mean is below {SILENT:g} on {100 * share:.0f} % of "
        "the batch. The last checkpoint is from before; lower alphas, the learning rate or the number of HaH blocks"
    )
