"""The mode that a network is in while it is attacked, and its return to the one it was in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def network_mode(network: nn.Module, *, train: bool, statistics_move: bool = True) -> Iterator[None]:
    """Puts a network into train or eval mode and every module back into its own afterwards.

    Args:
        network: Any module.
        train: Train mode if true, else eval mode.
        statistics_move: Whether batch normalisation in train mode moves its running statistics.
    """
    were = [(module, module.training) for module in network.modules()]
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    kept = [] if statistics_move else [(m, m.momentum, m.num_batches_tracked) for m in norms]
    network.train(train)
    for norm, _, counter in kept:
        # Momentum 0 keeps the running values to the bit; the counter is replaced, since a forward pass adds to it.
        norm.momentum = 0.0
        norm.num_batches_tracked = None if counter is None else counter.clone()
    try:
        yield
    finally:
        for norm, momentum, counter in kept:
            norm.momentum, norm.num_batches_tracked = momentum, counter
        for module, training in were:
            module.training = training


def assert_eval(network: nn.Module) -> None:
    """Refuses a network in train mode, whose predictions depend on the batch.

    Raises:
        ValueError: If a batch normalisation or dropout layer is in train mode.
    """
    kinds = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
    wrong = [name for name, module in network.named_modules() if isinstance(module, kinds) and module.training]
    if wrong:
        raise ValueError(
            f"expected the network in eval mode, but {wrong[0]}{' and others are' if wrong[1:] else ' is'} in train "
            "mode; call network.eval() first"
        )
