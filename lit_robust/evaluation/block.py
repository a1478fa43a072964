"""The evaluation of one block of samples: attack, count, and check what was found.

Kernels round differently at different batch shapes, so samples are dealt in fixed blocks, the clean prediction and the
final check always run in the block's full shape, and samples leave within their block only. A verdict is then the same
on any number of processes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lit_robust import sampling
from lit_robust.attacks import Attack
from lit_robust.attacks.base import prepare, searching
from lit_robust.attacks.minimum_norm import counted_in, minimum_norm
from lit_robust.counting import CountingModel
from lit_robust.errors import UserError
from lit_robust.losses import margin
from lit_robust.modes import assert_eval
from lit_robust.sampling import BETWEEN, CHECK, Noise
from lit_robust.threat import ThreatModel

CLEAN = "clean"  # name of the verdict on the images as they are


@dataclass(frozen=True)
class Verdict:
    """What one attack did to the samples of a block, all (N,) unless stated.

    Attributes:
        broken: Not classified correctly after the attack (or before it, for an adversary); for a minimum-norm attack
            with a radius, within it.
        margin: True logit minus the largest other, on the final images.
        distance: Distance of the final images, in the threat model's norm; a minimum-norm attack that found nothing
            leaves the clean image.
        forwards: Forward passes.
        backwards: Backward passes.
        x_adv: Final images, (N, C, H, W); the clean ones of samples that were wrong already.
        seconds: Time that the attack took for the block.
    """

    broken: Tensor
    margin: Tensor
    distance: Tensor
    forwards: Tensor
    backwards: Tensor
    x_adv: Tensor
    seconds: float


@dataclass(frozen=True)
class BlockResult:
    """A block's samples, (N,) each, and the verdict of each attack, `clean` first.

    Attributes:
        index: Positions in the data set.
        label: Labels.
        prediction: Predictions on the clean images.
        margin: Margins on the clean images.
        verdicts: Verdict of each attack.
        random: Whether the network draws noise when it predicts.
    """

    index: Tensor
    label: Tensor
    prediction: Tensor
    margin: Tensor
    verdicts: dict[str, Verdict]
    random: bool


def evaluate_block(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    index: Tensor,
    attacks: Mapping[str, Attack],
    *,
    size: int,
    seed: int = 0,
    cascade: bool = False,
    leave: bool = True,
    before: Callable[[str], None] = lambda name: None,
) -> BlockResult:
    """Attacks a block of samples and checks every adversarial afterwards.

    Args:
        network: Images in [0, 1] to logits, in eval mode.
        x: Images, (N, C, H, W) with N ≤ `size`.
        y: Labels, (N,).
        index: Positions in the data set, (N,); they key the noise.
        attacks: Attacks by name, in the order in which they run.
        size: Samples of a full block, in whose shape predictions are checked.
        seed: Seed of the noise.
        cascade: An attack runs only on the samples that adversaries of the same threat model before it left unbroken;
            minimum-norm attacks take no part in it, since they measure every sample.
        leave: Broken samples leave the search; see `Attack.falsify`. A random network is always searched to the end,
            where one lucky draw on the way would prove nothing.
        before: Called with each attack's name before it runs.

    Returns:
        Verdicts in the order of the samples.

    Raises:
        ValueError: If the network is in train mode or returns logits that are not finite, images or labels are out of
            range, an attack is targeted, or its result is outside its threat model.
    """
    assert_eval(network)
    x, y, noise = prepare(x, y, sampling.keys(index, seed=seed))
    clean = _logits(network, x, noise, size, CHECK)
    if not clean.isfinite().all():
        raise UserError("the network returns logits that are not finite: its weights are of no use")
    if not (int(y.min()) >= 0 and int(y.max()) < clean.shape[1]):
        raise ValueError(f"expected labels from 0 to {clean.shape[1] - 1}, got {int(y.min())} to {int(y.max())}")
    random = not torch.equal(clean, _logits(network, x, noise, size, BETWEEN))
    prediction, clean_margin = clean.argmax(1), margin(clean, y)
    wrong = prediction != y
    ones, zeros = torch.ones_like(y), torch.zeros_like(y)
    verdicts = {CLEAN: Verdict(wrong, clean_margin, zeros, ones, zeros, x, 0.0)}
    fallen: dict[ThreatModel, tuple[Tensor, Tensor]] = {}  # for the cascade: which, and the images that broke them
    for name, attack in attacks.items():
        before(name)
        if attack.targeted:
            raise ValueError(f"attack {name!r} is targeted, which needs classes to reach; evaluation has true labels")
        # An image that is wrong already needs no adversary; noise may turn it right, so it sees them all.
        skip, x_adv = (wrong if attack.adversarial else torch.zeros_like(wrong)), x
        cascades = cascade and attack.adversarial and minimum_norm(attack) is None
        if cascades:
            skip, x_adv = fallen.get(attack.threat_model, (skip, x_adv))
        verdict = _run(network, attack, name, x, y, x_adv, noise, ~skip, size=size, leave=leave, to_the_end=random)
        if cascades:
            fallen[attack.threat_model] = (verdict.broken, verdict.x_adv)
        verdicts[name] = verdict
    return BlockResult(index, y, prediction, clean_margin, verdicts, random)


def _run(
    network: nn.Module,
    attack: Attack,
    name: str,
    x: Tensor,
    y: Tensor,
    x_adv: Tensor,
    noise: Noise,
    rows: Tensor,
    *,
    size: int,
    leave: bool,
    to_the_end: bool,
) -> Verdict:
    """One attack on some rows of a block; `x_adv` is what the others keep."""
    started = time.perf_counter()
    counting = CountingModel(network, noise.key)
    x_adv = x_adv.clone()
    if rows.any():
        chosen = (counting, x[rows], y[rows], noise.rows(rows))
        with searching(counting):
            found = attack.search(*chosen) if to_the_end else attack.falsify(*chosen, leave=leave)
        x_adv[rows] = found.detach()
    distance = attack.threat_model.distance(x_adv, x)
    if not attack.threat_model.contains(x_adv, x).all():
        raise ValueError(f"attack {name!r} left its threat model {attack.threat_model}: distance {distance.max():.6g}")
    logits = _logits(network, x_adv, noise, size, CHECK)
    broken = attack.broken(logits, y) | ~logits.isfinite().all(1)
    if counted_in(attack) != attack.threat_model:
        broken &= counted_in(attack).contains(x_adv, x)
    return Verdict(
        broken=broken | ~rows,
        margin=margin(logits, y),
        distance=distance,
        forwards=counting.forwards,
        backwards=counting.backwards,
        x_adv=x_adv,
        seconds=time.perf_counter() - started,
    )


def _logits(network: nn.Module, x: Tensor, noise: Noise, size: int, step: int) -> Tensor:
    """Logits computed in the shape of a full block: a short one is filled up with its own images."""
    fill = torch.arange(size, device=x.device) % len(x)
    with torch.no_grad(), noise.rows(fill).keyed(step):
        logits: Tensor = network(x[fill])
    return logits[: len(x)]
