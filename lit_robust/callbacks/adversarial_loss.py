"""Cross-entropy under attacks that are carried to their end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from lit_robust.attacks import Attack
from lit_robust.attacks.minimum_norm import counted_in
from lit_robust.callbacks.measurement import TABLE, Measurement, Results
from lit_robust.callbacks.run_figure import caption, layer_bars
from lit_robust.errors import UserError
from lit_robust.evaluation.full_block import FullBlock
from lit_robust.evaluation.protocol import describe
from lit_robust.evaluation.screening import check
from lit_robust.evaluation.verdict import CLEAN
from lit_robust.losses import cross_entropy

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class AdversarialLoss(Measurement):
    """Mean cross-entropy of the test images after an attack (dissertation, Fig. 3.7, 3.9 and 3.10).

    An evaluation stops its search at an image's first adversarial, where the loss says nothing of how wrong the network
    can be made. Here each attack runs to its end on every image, also on those that are wrong without it, as in
    training. A random network is judged on one fresh draw.

    Args:
        attacks: Attacks by name.
        seed: Seed of the attacks' noise.

    Raises:
        UserError: If there is no attack, or one is targeted, has no radius or is called `clean`.
    """

    name = "adversarial_loss"

    def __init__(self, *, attacks: Mapping[str, Attack], seed: int = 0) -> None:
        super().__init__(seed=seed)
        self.attacks = dict(attacks)
        if not attacks or CLEAN in attacks:
            raise UserError(f"AdversarialLoss needs attacks, none of them called {CLEAN!r}, got {', '.join(attacks)}")
        for name, attack in attacks.items():
            if attack.targeted or counted_in(attack).eps is None:
                raise UserError(f"AdversarialLoss needs untargeted attacks with a radius, which {name} is not")

    def check(self, network: nn.Module, data: Any) -> None:  # noqa: ANN401 - a data module; optional
        """Refuses radii that hold every image, and backward passes that the network does not have."""
        for attack in self.attacks.values():
            counted_in(attack).check_shape(tuple(data.image_shape))
            check(attack, network)

    def measure(self, block: FullBlock) -> dict[str, Any]:
        """The cross-entropy of each image, clean and after each attack, in nats, and whether it is still right."""
        columns: dict[str, Any] = {"index": block.index, "label": block.y}
        for name in (CLEAN, *self.attacks):
            attack = self.attacks.get(name)
            x = block.x if attack is None else attack(block.network, block.x, block.y, key=block.noise.key)
            logits: Tensor = block.logits(x)
            columns[f"loss {name}"] = cross_entropy(logits, block.y).double()
            columns[f"right {name}"] = logits.argmax(1) == block.y
        return columns

    def summarise(self, columns: dict[str, Any]) -> dict[str, Any]:
        """Mean, standard error and share of right images, by attack."""
        losses = {name: np.asarray(columns[f"loss {name}"], dtype=float) for name in (CLEAN, *self.attacks)}
        figures = {
            name: {
                "mean": float(loss.mean()),
                "standard_error": float(loss.std(ddof=1) / len(loss) ** 0.5) if len(loss) > 1 else None,
                "accuracy": float(np.mean(columns[f"right {name}"])),
                **({} if name == CLEAN else {"attack": describe(self.attacks[name])}),
            }
            for name, loss in losses.items()
        }
        return {"losses": figures, TABLE: {f"loss/{name}": figure["mean"] for name, figure in figures.items()}}

    @classmethod
    def draw(cls, results: Mapping[str, Results]) -> Figure:
        """A bar for each attack and run."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(5.0, 3.4), layout="constrained")
        axis = figure.subplots()
        values = {run: {name: one["mean"] for name, one in result["losses"].items()} for run, result in results.items()}
        layer_bars(axis, values, "mean cross-entropy, nats")
        figure.suptitle(caption(results, {}), fontsize=8)
        return figure
