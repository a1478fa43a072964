"""The gradient of the loss in the image, as the attacks of an audit see it."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_robust.attacks.base import searching
from lit_robust.audit.plan import Plan
from lit_robust.backward import chosen
from lit_robust.evaluation.full_block import FullBlock
from lit_robust.expectation import Expectation, single_draws
from lit_robust.losses import cross_entropy


def loss_gradient(block: FullBlock, plan: Plan, x: Tensor) -> Tensor:
    """The gradient of the cross-entropy of each image, (N, C, H, W).

    It goes through the backward passes of the audit, and over as many draws of a random network as an attack takes.

    Args:
        block: The network and the labels.
        plan: What is attacked, and how.
        x: Where the gradient is taken, (N, C, H, W).
    """
    network = Expectation(block.network, plan.effort.draws) if plan.random else block.network
    with searching(network), chosen(block.network, plan.backward), block.noise.keyed(0), single_draws(block.network):
        at = x.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(cross_entropy(network(at), block.y).sum(), at, allow_unused=True)
    return torch.zeros_like(x) if gradient is None else gradient
