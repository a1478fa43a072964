"""The evaluation of one block of samples: attack, count, and check what was found.

Kernels round differently at different batch shapes, so samples are dealt in fixed blocks, the clean prediction and the
final check always run in the block's full shape, and samples leave within their block only. A verdict is then the same
on any number of processes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from lit_robust import sampling
from lit_robust.attacks import Attack
from lit_robust.attacks.base import prepare, searching
from lit_robust.attacks.minimum_norm import counted_in, minimum_norm
from lit_robust.counting import CountingModel
from lit_robust.errors import UserError
from lit_robust.evaluation.full_block import FullBlock
from lit_robust.evaluation.judge import Judge
from lit_robust.evaluation.verdict import CLEAN, BlockResult, Verdict
from lit_robust.losses import margin
from lit_robust.modes import assert_eval
from lit_robust.sampling import CHECK
from lit_robust.threat import ThreatModel


def evaluate_block(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    index: Tensor,
    attacks: Mapping[str, Attack],
    *,
    size: int,
    seed: int = 0,
    cascades: Mapping[str, str] | None = None,
    leave: bool = True,
    draws: int = 20,
    random: bool | None = None,
    copy: nn.Module | None = None,
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
        cascades: Name of the cascade that an attack belongs to, by its own name. It runs only on the samples that
            adversaries of the same cascade and threat model before it left unbroken, and asks only whether these can be
            broken. An attack in none runs on all samples; so does a minimum-norm attack without a radius.
        leave: Broken samples leave the search; see `Attack.falsify`. A random network is always searched to the end,
            where one lucky draw on the way would prove nothing.
        draws: Draws of a random network that judge an adversarial, and as many before that to prefer one attack.
        random: Whether the network draws noise when it predicts; None to find out, by a pass over the block.
        copy: A faster network of the same function up to rounding, for the searches; see `fast_copy`. What it claims is
            checked on `network`, and searched again there where rounding decides.
        before: Called with each attack's name before it runs.

    Returns:
        Verdicts in the order of the samples.

    Raises:
        ValueError: If the network is in train mode or returns logits that are not finite, images or labels are out of
            range, an attack is targeted, or its result is outside its threat model.
    """
    assert_eval(network)
    x, y, noise = prepare(x, y, sampling.keys(index, seed=seed))
    block = FullBlock(network, x, y, index, noise, size)
    judge = Judge(block, draws, random)
    _check(judge.clean, y)
    clean = _verdict(CLEAN, None, judge, x, [torch.ones_like(y), torch.zeros_like(y)], time.perf_counter())
    verdicts, last_of = {CLEAN: clean}, dict[tuple[str, ThreatModel], Verdict]()
    for name, attack in attacks.items():
        before(name)
        if attack.targeted:
            raise ValueError(f"attack {name!r} is targeted, which needs classes to reach; evaluation has true labels")
        started, counts = time.perf_counter(), [torch.zeros_like(y), torch.zeros_like(y)]
        cascade = _cascade(name, attack, cascades or {})
        last = clean if cascade is None else last_of.get(cascade, clean)
        # An image that is wrong already needs no adversary; noise may turn it right, so it sees them all.
        rows = last.right_before > 0 if attack.adversarial else torch.ones_like(clean.broken)
        measures = judge.random or (minimum_norm(attack) is not None and cascade is None)
        search = attack.search if measures else partial(attack.falsify, leave=leave)
        x_adv = _search(search, network if copy is None or measures else copy, block, rows, last.x_adv, counts)
        if copy is not None and not measures:
            again = rows & _doubtful(judge, copy, x_adv)
            x_adv = _search(search, network, block, again, x_adv, counts)
        verdicts[name] = _verdict(name, attack, judge, x_adv, counts, started)
        if cascade is not None:
            last_of[cascade] = verdicts[name]
    return BlockResult(index, y, judge.clean.argmax(1), clean.margin, x, verdicts, judge.random)


def _check(logits: Tensor, y: Tensor) -> None:
    if not logits.isfinite().all():
        raise UserError("the network returns logits that are not finite: its weights are of no use")
    if not (int(y.min()) >= 0 and int(y.max()) < logits.shape[1]):
        raise ValueError(f"expected labels from 0 to {logits.shape[1] - 1}, got {int(y.min())} to {int(y.max())}")


def _cascade(name: str, attack: Attack, cascades: Mapping[str, str]) -> tuple[str, ThreatModel] | None:
    """Which attacks hand on what they left unbroken; noise and what breaks at any distance do not."""
    if name not in cascades or not attack.adversarial or counted_in(attack).eps is None:
        return None
    return cascades[name], counted_in(attack)


def _search(
    search: Callable[..., Tensor],
    model: nn.Module,
    block: FullBlock,
    rows: Tensor,
    x_adv: Tensor,
    counts: list[Tensor],
) -> Tensor:
    """Searches for adversarials of some rows; the others keep `x_adv`. Adds the passes to `counts`."""
    x_adv = x_adv.clone()
    if rows.any():
        counting = CountingModel(model, block.noise.key)
        with searching(counting):
            x_adv[rows] = search(counting, block.x[rows], block.y[rows], block.noise.rows(rows)).detach()
        for count, passes in zip(counts, (counting.forwards, counting.backwards), strict=True):
            count += passes
    return x_adv


def _doubtful(judge: Judge, copy: nn.Module, x_adv: Tensor) -> Tensor:
    """Which samples are right by less than rounding moves, (N,): the copy may have stopped there as if it had won."""
    block, own = judge.block, margin(judge.logits(x_adv), judge.block.y)
    right = own > 0
    if not right.any():
        return right
    with torch.no_grad(), block.noise.rows(right).keyed(CHECK):
        its = margin(copy(x_adv[right]), block.y[right])
    doubtful = right.clone()
    doubtful[right] = own[right] <= 4 * (own[right] - its).abs().max()
    return doubtful


def _verdict(
    name: str, attack: Attack | None, judge: Judge, x_adv: Tensor, counts: list[Tensor], started: float
) -> Verdict:
    """Judges the final images, also rounded to 8 bits, and measures their distance.

    Raises:
        ValueError: If some are outside the threat model.
    """
    x, judgement = judge.block.x, judge(x_adv, attack)
    distance, survives = torch.zeros(len(x), dtype=torch.float64), torch.zeros_like(judgement.broken)
    if attack is not None:
        threat = attack.threat_model
        distance = threat.distance(x_adv, x)
        if not threat.contains(x_adv, x).all():
            raise ValueError(f"attack {name!r} left its threat model {threat}: distance {distance.max():.6g}")
        if judgement.broken.any():
            rounded = (255 * x_adv).round() / 255
            survives = judgement.broken & judge(rounded, attack).broken & counted_in(attack).contains(rounded, x)
    return Verdict(
        **vars(judgement),
        distance=distance,
        forwards=counts[0],
        backwards=counts[1],
        survives=survives,
        x_adv=x_adv,
        seconds=time.perf_counter() - started,
    )
