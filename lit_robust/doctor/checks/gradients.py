"""Gradient attacks need a gradient, and on a random network the mean one."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_robust import sampling
from lit_robust.attacks import EOT, Attack, AutoAttack, Square, Through
from lit_robust.attacks.adaptive import Adaptive
from lit_robust.attacks.base import searching
from lit_robust.attacks.decision import DecisionAttack
from lit_robust.attacks.transfer import Transfer
from lit_robust.doctor.attack_parts import inside
from lit_robust.doctor.diagnosis import Diagnosis, error, ok, skipped, warning
from lit_robust.doctor.subject import Subject
from lit_robust.modes import network_mode

_REPAIR = (
    "attack through a surrogate (Through, Adaptive), or ask for decisions alone (Square, HopSkipJump): the accuracy "
    "under gradient attacks would be that of noise"
)
_CHANGE = 1e-3  # of the largest logit, with other noise


def input_gradient(subject: Subject) -> Iterator[Diagnosis]:
    """Gradient of the loss in the image: there is one, it is finite, and not 0 for most images."""
    names = [name for name, attack in subject.attacks.items() if _needs_gradient(attack)]
    if not names or not subject.classifies:
        yield skipped("no attack takes the network's own gradient")
        return
    grad = _gradient(subject)
    if grad is None:
        yield error("the logits do not depend on the image by a differentiable path", _REPAIR)
        return
    flat = grad.flatten(1)
    zero, wild = (flat == 0).all(1), ~flat.isfinite().all(1)
    bad, n = int((zero | wild).sum()), len(flat)
    found = f"{int(zero.sum())} of {n} images have a gradient of 0, {int(wild.sum())} one that is not finite"
    if 2 * bad > n:
        yield warning(found, _REPAIR)
    else:
        yield ok(found)


def mean_gradient(subject: Subject) -> Iterator[Diagnosis]:
    """Gradient attacks on a random network without `EOT`, which see the gradient of one draw."""
    evaluated = {n: a for n, a in subject.attacks.items() if n.startswith("evaluation.attacks.")}
    single = [name for name, attack in evaluated.items() if _needs_gradient(attack) and not _averages(attack)]
    if not single or not subject.classifies:
        yield skipped("no gradient attack on single draws in the evaluation")
        return
    x, _, index = subject.few()
    other = subject.ask(x, index + 1_000_003)  # the same images with the noise of other samples
    change = float((other - subject.logits).float().abs().max()) / max(float(subject.logits.abs().max()), 1e-12)
    if change > _CHANGE:
        yield warning(
            f"the network is random, and {', '.join(single)} follow{'s' if len(single) == 1 else ''} the gradient of "
            "single draws",
            "wrap gradient attacks in EOT (Athalye et al., 2018), or take AutoAttack's version rand",
        )
    else:
        yield ok("the network is deterministic")


def _gradient(subject: Subject) -> Tensor | None:
    x, y, index = subject.few()
    noise = sampling.Noise(sampling.keys(index))
    network = subject.network
    with network_mode(network, train=False), searching(network), noise.keyed(0), torch.random.fork_rng(devices=[]):
        x = x.clone().requires_grad_()
        loss = F.cross_entropy(network(x), y, reduction="sum")
        if not loss.requires_grad:
            return None
        (grad,) = torch.autograd.grad(loss, x, allow_unused=True)
    return None if grad is None else grad.detach()


def _needs_gradient(attack: Attack) -> bool:
    """Whether an attack takes the gradient of the network as it is."""
    if isinstance(attack, Through | Adaptive | Transfer | DecisionAttack | Square) or not attack.adversarial:
        return False
    inner = list(inside(attack))
    if inner:
        return any(_needs_gradient(each) for each in inner)
    passes = attack.passes(2)
    return passes is None or passes[1] > 0


def _averages(attack: Attack) -> bool:
    if isinstance(attack, EOT) or (isinstance(attack, AutoAttack) and attack.version == "rand"):
        return True
    inner = list(inside(attack))
    return bool(inner) and all(_averages(each) for each in inner)
