"""Accuracy under an attack against its radius."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lit_robust import radius
from lit_robust.attacks import Attack
from lit_robust.attacks.at_radius import at_radius
from lit_robust.attacks.minimum_norm import counted_in
from lit_robust.callbacks.measurement import TABLE, Measurement, Results
from lit_robust.callbacks.run_figure import accuracy_curve, caption, run_styles
from lit_robust.errors import UserError
from lit_robust.evaluation.block import evaluate_block
from lit_robust.evaluation.full_block import FullBlock
from lit_robust.evaluation.protocol import describe
from lit_robust.evaluation.screening import check
from lit_robust.evaluation.summary import share
from lit_robust.evaluation.verdict import CLEAN, Verdict
from lit_robust.threat import NAMES

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class EpsCurve(Measurement):
    """Accuracy under one attack at growing radii (dissertation, Fig. 4.7 and 4.13).

    An image that is broken stays so: its adversarial is inside every larger ball. So each radius is tried on the images
    that the smaller ones have left, and no curve rises. If accuracy does not fall to about 0 within a large radius, the
    attack is at fault, not the model good (Carlini et al., 2019).

    Args:
        attack: The attack; each radius takes the place of its own.
        eps: Radii, in units of the [0, 1] pixel range, above 0.
        draws: Draws of a random network that judge an image.
        seed: Seed of the attack's noise.

    Raises:
        UserError: If the attack is targeted, no adversary or has no radius, or a radius is not above 0 or given twice.
    """

    name = "eps_curve"

    def __init__(
        self, *, attack: Attack, eps: Sequence[Fraction | float | str], draws: int = 20, seed: int = 0
    ) -> None:
        super().__init__(seed=seed)
        if attack.targeted or not attack.adversarial or counted_in(attack).eps is None:
            raise UserError(f"EpsCurve needs an untargeted adversary with a radius, got {attack}")
        if draws < 1:
            raise UserError(f"expected draws of EpsCurve to be at least 1, got {draws}")
        self.attack = attack
        self.draws = draws
        self.eps = sorted(radius.parse(each) for each in eps)
        if not self.eps or self.eps[0] <= 0 or len({radius.show(each) for each in self.eps}) < len(self.eps):
            raise UserError(f"expected eps of EpsCurve above 0, each once, got {list(map(str, eps))}")
        self._attacks = {f"eps {radius.show(each)}": at_radius(attack, each) for each in self.eps}

    def check(self, network: nn.Module, data: Any) -> None:  # noqa: ANN401 - a data module; optional
        """Refuses radii that hold every image, and backward passes that the network does not have."""
        for attack in self._attacks.values():
            counted_in(attack).check_shape(tuple(data.image_shape))
        check(self.attack, network)

    def measure(self, block: FullBlock) -> dict[str, Any]:
        """For each radius how right an image still is: 1 or 0, and for a random network the share of right draws."""
        verdict = self._verdict(block, torch.arange(len(block.x)), None)
        columns: dict[str, Any] = {"index": block.index, "label": block.y, CLEAN: verdict.right}
        right, before = verdict.right.clone(), verdict.right_before.clone()
        for name in self._attacks:
            left = before.nonzero().flatten()
            if len(left):
                verdict = self._verdict(block, left, name)
                weaker = verdict.right_before < before[left]  # chosen by some draws, counted by others
                right[left] = torch.where(weaker, verdict.right, right[left])
                before[left] = torch.where(weaker, verdict.right_before, before[left])
            columns[name] = right.clone()
        return columns

    def summarise(self, columns: dict[str, Any]) -> dict[str, Any]:
        """`curve`: for each radius, 0 first, the accuracy with its interval."""
        names = dict(zip([Fraction(0), *self.eps], [CLEAN, *self._attacks], strict=True))
        curve = [{"eps": float(e), "name": radius.show(e), **share(columns[name])} for e, name in names.items()]
        table = {f"eps_curve/{point['name']}": point["accuracy"] for point in curve}
        norm = NAMES[counted_in(self.attack).norm]
        return {"norm": norm, "attack": describe(self.attack), "bound": "at most", "curve": curve, TABLE: table}

    @classmethod
    def draw(cls, results: Mapping[str, Results]) -> Figure:
        """A curve a run."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        axis, styles = figure.subplots(), run_styles(list(results))
        for run, result in results.items():
            accuracy_curve(axis, run, result["curve"], str(styles[run]["color"]))
        norms = " or ".join(dict.fromkeys(result["norm"] for result in results.values()))
        axis.set_xlabel(f"radius in {norms}, in units of the pixel range")
        axis.set_ylabel("accuracy in %, at most")
        axis.set_ylim(0, 102)
        axis.set_xlim(left=0)
        axis.set_title(f"{caption(results, {})}\nbands: 95 % intervals", fontsize=9)
        axis.grid(alpha=0.3)
        if len(results) > 1:
            axis.legend(fontsize=8)
        return figure

    def _verdict(self, block: FullBlock, rows: Tensor, name: str | None) -> Verdict:
        """The verdict of the attack of one radius on some rows, or that on the clean images."""
        result = evaluate_block(
            block.network,
            block.x[rows],
            block.y[rows],
            block.index[rows],
            {name: self._attacks[name]} if name else {},
            size=block.size,
            seed=self.seed,
            draws=self.draws,
        )
        return result.verdicts[name or CLEAN]
