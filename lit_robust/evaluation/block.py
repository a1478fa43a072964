"""The evaluation of one block of samples: attack, count, and check what was found.

Kernels round differently at different batch shapes, so samples are dealt in fixed blocks, the clean prediction and the
final check always run in the block's full shape, and samples leave within their block only. A verdict is then the same
on any number of processes and after a resume.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lit_robust import sampling
from lit_robust.attacks import Attack
from lit_robust.attacks.base import searching
from lit_robust.counting import CountingModel
from lit_robust.losses import margin
from lit_robust.modes import assert_eval
from lit_robust.sampling import Noise

CLEAN = "clean"  # name of the verdict on the images as they are
_CHECK = -2  # the step that random layers draw for in the clean prediction and the final check


@dataclass(frozen=True)
class Verdict:
    """What one attack did to the samples of a block, all (N,) unless stated.

    Attributes:
        broken: Not classified correctly after the attack (or before it, for an adversary).
        margin: True logit minus the largest other, on the final images.
        distance: Distance of the final images, in the threat model's norm.
        forwards: Forward passes.
        backwards: Backward passes.
        x_adv: Final images, (N, C, H, W); the clean ones where the attack did not run.
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
    """A block's samples, (N,) each, and the verdict of each attack, `clean` first."""

    index: Tensor
    label: Tensor
    prediction: Tensor
    margin: Tensor
    verdicts: dict[str, Verdict]


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
        cascade: An attack runs only on the samples that adversaries of the same threat model before it left unbroken.
        leave: Broken samples leave the search; see `Attack.falsify`.
        before: Called with each attack's name before it runs.

    Returns:
        Verdicts in the order of the samples.

    Raises:
        ValueError: If the network is in train mode, a label is out of range, an attack is targeted, or its result is
            outside its threat model.
    """
    assert_eval(network)
    key = sampling.keys(index, seed=seed)
    noise = Noise(key)
    clean = _logits(network, x, noise, size)
    if len(y) and not (int(y.min()) >= 0 and int(y.max()) < clean.shape[1]):
        raise ValueError(f"expected labels from 0 to {clean.shape[1] - 1}, got {int(y.min())} to {int(y.max())}")
    prediction = clean.argmax(1)
    ones, zeros = torch.ones_like(y), torch.zeros_like(y)
    none = Verdict(prediction != y, margin(clean, y), zeros.double(), ones, zeros, x, 0.0)
    verdicts = {CLEAN: none}
    fallen: dict[str, Tensor] = {}  # by threat model, for the cascade
    for name, attack in attacks.items():
        before(name)
        if attack.targeted:
            raise ValueError(f"attack {name!r} is targeted, which needs classes to reach; evaluation has true labels")
        threat = str(attack.threat_model)
        # An image that is wrong already needs no adversary; noise may turn it right, so it sees them all.
        skip = prediction != y if attack.adversarial else torch.zeros_like(prediction, dtype=torch.bool)
        if cascade and attack.adversarial:
            skip = skip | fallen.get(threat, torch.zeros_like(skip))
        verdict = _run(network, attack, x, y, noise, ~skip, size=size, leave=leave, name=name)
        fallen[threat] = fallen.get(threat, torch.zeros_like(skip)) | verdict.broken
        verdicts[name] = verdict
    return BlockResult(index, y, prediction, margin(clean, y), verdicts)


def _run(
    network: nn.Module,
    attack: Attack,
    x: Tensor,
    y: Tensor,
    noise: Noise,
    rows: Tensor,
    *,
    size: int,
    leave: bool,
    name: str,
) -> Verdict:
    started = time.perf_counter()
    counting = CountingModel(network, noise.key)
    x_adv = x.clone()
    if rows.any():
        with searching(counting):
            found = attack.falsify(counting, x[rows].clone(), y[rows].clone(), noise.rows(rows), leave=leave)
        x_adv[rows] = found.detach()
    inside = attack.threat_model.contains(x_adv, x)
    if not inside.all():
        worst = attack.threat_model.distance(x_adv, x).max()
        raise ValueError(f"attack {name!r} left its threat model {attack.threat_model}: distance {worst:.6g}")
    logits = _logits(network, x_adv, noise, size)
    return Verdict(
        broken=attack.broken(logits, y) | ~rows,
        margin=margin(logits, y),
        distance=attack.threat_model.distance(x_adv, x),
        forwards=counting.forwards,
        backwards=counting.backwards,
        x_adv=x_adv,
        seconds=time.perf_counter() - started,
    )


def _logits(network: nn.Module, x: Tensor, noise: Noise, size: int) -> Tensor:
    """Logits computed in the shape of a full block: a short one is filled up with its own images."""
    fill = torch.arange(size, device=x.device) % len(x)
    with torch.no_grad(), noise.rows(fill).keyed(_CHECK):
        logits: Tensor = network(x[fill])
    return logits[: len(x)]
