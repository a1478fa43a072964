"""About how long a test will take, said before it begins, and how many images a budget of time is enough for."""

from __future__ import annotations

from math import ceil
from typing import Any

from lightning.pytorch import Trainer

from lit_robust.callbacks import RobustEval
from lit_robust.data import ImageData
from lit_robust.errors import UserError
from lit_robust.evaluation import budget
from lit_robust.evaluation.screening import foreseen
from lit_robust.modes import network_mode
from lit_robust.regimes import RobustClassifier

KEY = "batches"  # of a test's state: how many a budget allowed, so that a test that goes on keeps to it


def announce(
    trainer: Trainer, model: RobustClassifier, data: ImageData, evaluation: RobustEval, state: dict[str, Any]
) -> None:
    """Prints the passes and the time of a test; with a budget, cuts the test to the images that it is enough for.

    Args:
        trainer: The trainer, whose `limit_test_batches` a budget sets.
        model: The regime with its network.
        data: The data module.
        evaluation: The attacks, and the budget.
        state: What the test is about; keeps the number of batches.

    Raises:
        UserError: If the budget is no time, too short for one block, or an attack does not know its passes.
    """
    if not evaluation.attacks:
        return
    size, total = data.eval_batch_size, len(data.images(train=False))
    blocks = _blocks(trainer.limit_test_batches, ceil(total / size), trainer.world_size)
    device = trainer.strategy.root_device
    x = data.images(train=False).x[:size].to(device).float() / 255
    with network_mode(model, train=False):
        cost = budget.cost(model.to(device), x, foreseen(evaluation.attacks, model.network), data.num_classes)
    if evaluation.budget is not None and KEY not in state:
        if cost is None:
            raise UserError("a budget needs to know the passes of every attack; one of these attacks does not say")
        enough = cost.samples(budget.seconds(evaluation.budget), trainer.world_size) // size // trainer.world_size
        if enough == 0:
            raise UserError(
                f"a budget of {evaluation.budget} is not enough for a block of {size} images on each process, which "
                f"takes up to {cost.seconds * size:.0f} s; give more time, or a smaller data.eval_batch_size"
            )
        state[KEY] = min(enough, blocks)
    if evaluation.budget is not None:
        trainer.limit_test_batches = blocks = state[KEY]
    samples = min(total, blocks * size * trainer.world_size)
    print(f"at most: {samples:,} images" if cost is None else cost.describe(samples, trainer.world_size), flush=True)


def _blocks(limit: int | float | None, blocks: int, processes: int) -> int:
    """Blocks of each process, as Lightning counts them."""
    mine = ceil(blocks / processes)
    if limit is None:
        return mine
    return min(limit, mine) if isinstance(limit, int) else int(limit * mine)
