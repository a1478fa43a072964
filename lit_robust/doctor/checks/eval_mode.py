"""In eval mode a sample's logits depend on the sample alone, and asking changes nothing."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from lit_robust.doctor.diagnosis import Diagnosis, error, ok, warning
from lit_robust.doctor.subject import FEW, Subject
from lit_robust.modes import network_mode

_RELATIVE = 1e-3  # of the largest logit; rounding at one batch shape stays far below
_SEED = 12345  # another than that of the logits which it is compared with


def stuck_in_training(subject: Subject) -> Iterator[Diagnosis]:
    """Layers that are in train mode after the network has been put into eval mode."""
    with network_mode(subject.network, train=False):
        left = [(name, type(m).__name__) for name, m in subject.network.named_modules() if m.training]
    if left:
        named = ", ".join(f"{kind} ({name})" if name else kind for name, kind in left[:3])
        yield error(
            f"{len(left)} of the modules stay in train mode when the network is put into eval mode: {named}",
            "do not override train() or eval() without calling that of nn.Module; dropout and batch normalisation "
            "would be at work while it is attacked",
        )
    else:
        yield ok("every module goes into eval mode")


def batch_mates(subject: Subject) -> Iterator[Diagnosis]:
    """Whether the logits of images change with the other images of the batch, as with batch statistics."""
    x, _, index = subject.few()
    others, _, other_index = subject.few(skip=FEW)
    half = FEW // 2
    # The same shape and the same seed, so that rounding and a network's own random numbers are the same.
    mixed, mixed_index = torch.cat([x[:half], 1 - others[half:]]), torch.cat([index[:half], other_index[half:]])
    change = _change(subject.ask(mixed, mixed_index)[:half], subject.logits[:half])
    if change > _RELATIVE:
        yield error(
            f"in eval mode the logits of an image change by {change:.2g} of the largest with the other images of its "
            "batch",
            "use running statistics in eval mode (nn.BatchNorm2d, or F.batch_norm with training=self.training): an "
            "attack on one image would otherwise change the others",
        )
    else:
        yield ok("logits of an image do not depend on its batch")


def still(subject: Subject) -> Iterator[Diagnosis]:
    """Whether a pass in eval mode leaves parameters and buffers alone."""
    before = {name: value.clone() for name, value in _state(subject.network).items()}
    x, _, index = subject.few()
    subject.ask(x, index)
    after = _state(subject.network)
    moved = [name for name, value in before.items() if not torch.equal(value, after[name])]
    if moved:
        with torch.no_grad():
            for name in moved:
                after[name].copy_(before[name])
        yield error(
            f"a pass in eval mode changes {', '.join(moved[:3])}",
            "change state in training only: what is measured would depend on what was measured before",
        )
    else:
        yield ok("a pass in eval mode changes nothing")


def own_randomness(subject: Subject) -> Iterator[Diagnosis]:
    """Random numbers that are drawn from torch's generator and do not belong to the sample."""
    x, _, index = subject.few()
    change = _change(subject.ask(x, index, seed=_SEED), subject.logits)
    if change > _RELATIVE:
        yield warning(
            f"the logits of the same images change by {change:.2g} of the largest with the state of torch's generator",
            "turn dropout off in eval mode (F.dropout with training=self.training); a layer that is random on purpose "
            "draws from sampling.layer_uniform or sampling.layer_normal, and a sample's result can then be repeated",
        )
    else:
        yield ok("no random numbers of torch's own generator")


def _state(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, also those that are not saved."""
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def _change(logits: Tensor, reference: Tensor) -> float:
    largest = float(reference.float().abs().max())
    return float((logits - reference).float().abs().max()) / max(largest, 1e-12)
