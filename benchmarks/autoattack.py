"""AutoAttack against its authors' package (`pyautoattack`): robust accuracy, each component alone, and time.

Both run the standard version on the first test images of Fashion-MNIST, against the small CNN after natural and after
PGD training (benchmarks/models). Robust accuracies are to agree within one image; those of a component alone within one
image or the spread of the package over three seeds. What was measured is kept, so the command may be stopped and
started again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pyautoattack import AutoAttack as Reference
from torch import Tensor, nn

from benchmarks.subjects import fashion, pixels, stored_small_cnn
from benchmarks.timing import RESULTS, Comparison, options, report
from lit_robust.attacks import AutoAttack
from lit_robust.evaluation import evaluate_block, suite
from lit_robust.evaluation.fast_copy import fast_copy
from lit_robust.threat import Norm, ThreatModel

NORMS: dict[Norm, tuple[str, float]] = {"linf": ("Linf", 0.1), "l2": ("L2", 1.0), "l1": ("L1", 10.0)}
MODELS = {"natural": ("natural_small", 0.45), "adversarial": ("pgd_at_small", 0.75)}
COMPONENTS = ("apgd-ce", "apgd-t", "fab-t", "square")
SEEDS = (0, 1, 2)


def ours(
    model: nn.Module, x: Tensor, y: Tensor, norm: Norm, *, eps: float | None = None, component: str | None = None
) -> dict[str, Any]:
    """Images that stay right under all components in turn, or under one alone, and seconds."""
    attack = AutoAttack(threat=ThreatModel(NORMS[norm][1] if eps is None else eps, norm))
    rows, cascades = suite.rows({"aa": attack}, cascade=False)
    if component is not None:
        rows = {name: rows[name] for name in rows if name == f"aa/{component}"}
    started = time.perf_counter()
    copy, index = fast_copy(model, x), torch.arange(len(x))
    result = evaluate_block(model, x, y, index, rows, size=len(x), cascades=cascades, copy=copy)
    seconds = time.perf_counter() - started
    last = list(result.verdicts.values())[-1]
    by_member = {name: verdict.seconds for name, verdict in result.verdicts.items()}
    return {"right": int((~last.broken).sum()), "seconds": seconds, "by_member": by_member}


def theirs(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    norm: Norm,
    *,
    eps: float | None = None,
    component: str | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """The same of the package."""
    name, usual = NORMS[norm]
    reference = Reference(model, norm=name, eps=eps or usual, seed=seed, version="standard", device="cpu")
    if component is not None:
        reference.attacks_to_run = [component]
    started = time.perf_counter()
    x_adv, _ = reference.run_standard_evaluation(x, y, batch_size=len(x))
    seconds = time.perf_counter() - started
    with torch.no_grad():
        return {"right": int((model(x_adv).argmax(1) == y).sum()), "seconds": seconds}


class Record:
    """Results by key, written to a file as they come."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.content: dict[str, Any] = json.loads(path.read_text()) if path is not None and path.is_file() else {}

    def get(self, key: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What was measured before under a key, else what is measured now."""
        if key not in self.content:
            self.content[key] = measure()
            print(key, self.content[key], flush=True)
            if self.path is not None:
                self.path.write_text(json.dumps(self.content, indent=2) + "\n")
        found: dict[str, Any] = self.content[key]
        return found


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--norms", nargs="+", default=list(NORMS), choices=list(NORMS))
    parser.add_argument("--components", action="store_true", help="each component alone instead, over three seeds")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    images = fashion(given.root, train=False)
    count = 8 if given.smoke else given.images
    x, y = pixels(images.x[:count]), images.y[:count]
    record = Record(None if given.smoke else RESULTS / "autoattack_runs.json")
    comparisons = []
    for kind, (stored, target) in MODELS.items():
        model = stored_small_cnn(stored)
        for norm in given.norms:
            key, name = f"{kind} {norm} {count}", f"autoattack, {kind}, {norm}"
            if not given.components:
                own = record.get(f"{key} ours", lambda m=model, n=norm: ours(m, x, y, n))
                its = record.get(f"{key} theirs", lambda m=model, n=norm: theirs(m, x, y, n))
                comparisons += [
                    time_ratio(f"{name}, time", own, its, target),
                    agreement(f"{name}, images right", own["right"], [its["right"]]),
                ]
            for component in COMPONENTS if given.components else ():
                single = record.get(
                    f"{key} {component} ours", lambda m=model, n=norm, c=component: ours(m, x, y, n, component=c)
                )
                spread = [
                    record.get(
                        f"{key} {component} theirs, seed {seed}",
                        lambda m=model, n=norm, c=component, s=seed: theirs(m, x, y, n, component=c, seed=s),
                    )["right"]
                    for seed in SEEDS
                ]
                comparisons.append(agreement(f"{name}, {component} alone, images right", single["right"], spread))
    if given.components and given.out is None and not given.smoke:
        given.out = RESULTS / "autoattack_components.json"
    report(__spec__.name, comparisons, record.content, given, ["pyautoattack"])


def time_ratio(name: str, ours: dict[str, Any], theirs: dict[str, Any], target: float) -> Comparison:
    """Our seconds over the package's."""
    a, b = ours["seconds"], theirs["seconds"]
    return Comparison(name=name, ratio=a / b, target=target, bound="at most", ours=a, theirs=b, unit="s")


def agreement(name: str, right: int, references: list[int]) -> Comparison:
    """How far ours is from the nearest that the package gave; the bound is one image or the package's own spread."""
    apart = min(abs(right - reference) for reference in range(min(references), max(references) + 1))
    return Comparison(
        name=name, ratio=apart, target=1, bound="at most", ours=right, theirs=references[0], unit="images right"
    )


if __name__ == "__main__":
    main()
