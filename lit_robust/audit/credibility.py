"""Is a robust accuracy to be believed? The measurement behind the command `audit`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import partial
from math import ceil
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from torch import nn

from lit_robust import sampling
from lit_robust.attacks import Attack
from lit_robust.attacks.combinations import combinations, labels
from lit_robust.audit import figure
from lit_robust.audit.checks import CHECKS
from lit_robust.audit.finding import worst
from lit_robust.audit.plan import Effort, Plan
from lit_robust.audit.progress import Progress
from lit_robust.audit.rows import BEFORE, RIGHT, Rows
from lit_robust.audit.substitute import train_substitute
from lit_robust.backward import chosen
from lit_robust.callbacks.measurement import TABLE, Batch, Measurement, Results
from lit_robust.callbacks.progress import AttackProgressBar
from lit_robust.callbacks.subject import data_of, first_blocks, network_of
from lit_robust.errors import UserError
from lit_robust.evaluation.block import evaluate_block
from lit_robust.evaluation.fast_copy import fast_copy
from lit_robust.evaluation.full_block import FullBlock
from lit_robust.evaluation.interval import wilson
from lit_robust.evaluation.judge import Judge
from lit_robust.evaluation.protocol import describe
from lit_robust.evaluation.summary import share
from lit_robust.evaluation.verdict import CLEAN
from lit_robust.sampling import Noise
from lit_robust.threat import Norm, ThreatModel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NORMS = ("linf", "l2", "l1")


class Credibility(Measurement):
    """Asks of a robust accuracy whether it deserves belief: eleven checks, each with a verdict, a figure and a picture.

    Every attack runs on all correctly classified images on its own, so that they can be compared image by image.
    Adversarials of other networks come from `surrogates`, or from a substitute that is trained before on the model's
    own predictions.

    Args:
        eps: Radius of the ball, in units of the [0, 1] pixel range.
        norm: Its norm: `linf`, `l2` or `l1`.
        images: The first so many test images; None for all that are tested.
        surrogates: Networks that adversarials are transferred from; none for a substitute.
        backward: Backward passes that the audited attacks go through, by names of layers; see `Through`.
        effort: How hard it attacks.
        draws: Draws of a random network that judge an image.
        seed: Seed of the attacks' noise and of the substitute.

    Raises:
        UserError: If there is no radius, the norm is another one, or a number is out of range.
    """

    name = "audit"

    def __init__(
        self,
        *,
        eps: Fraction | float | str | None = None,
        norm: Norm = "linf",
        images: int | None = None,
        surrogates: Sequence[nn.Module] = (),
        backward: Mapping[str, str] | None = None,
        effort: Effort | None = None,
        draws: int = 20,
        seed: int = 0,
    ) -> None:
        super().__init__(seed=seed)
        if eps is None:
            raise UserError("an audit needs the radius that the robust accuracy is quoted at: --eps 8/255")
        if norm not in _NORMS:
            raise UserError(f"expected the norm of an audit to be one of {', '.join(_NORMS)}, got {norm}")
        if (images is not None and images < 1) or draws < 1:
            raise UserError(f"expected images and draws of an audit of at least 1, got {images} and {draws}")
        self.threat = ThreatModel(eps, norm)
        if self.threat.exact <= 0:
            raise UserError(f"expected eps of an audit above 0, got {eps}")
        self.images = images
        self.surrogates = list(surrogates)
        self.backward = dict(backward or {})
        self.effort = effort or Effort()
        self.draws = draws
        self.plan: Plan | None = None
        self._attacks: dict[str, Attack] = {}
        self._copy: nn.Module | None = None
        self._progress: Progress | None = None

    def check(self, network: nn.Module, data: Any) -> None:  # noqa: ANN401 - a data module; optional
        """Refuses a ball that holds every image, and backward passes that the network does not have."""
        self.threat.check_shape(tuple(data.image_shape))
        with chosen(network, self.backward):
            pass

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuses what could not be measured, and lets the test end after the images that were asked for."""
        super().setup(trainer, pl_module, stage)
        if stage == "test" and self.images is not None:
            trainer.limit_test_batches = ceil(self._blocks(trainer) / trainer.world_size)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Looks at the first block, and trains the substitute.

        Raises:
            UserError: If the model does not classify these images better than chance.
        """
        super().on_test_start(trainer, pl_module)
        data, network = data_of(trainer), network_of(pl_module)
        with torch.inference_mode(False):
            x, y, index = (part.clone() for part in first_blocks(trainer, pl_module, data.eval_batch_size)[0])
            noise = Noise(sampling.keys(index, seed=self.seed))
            self.prepare(FullBlock(network, x, y, index, noise, data.eval_batch_size), data)
        assert self.plan is not None
        bars = [c for c in trainer.callbacks if isinstance(c, AttackProgressBar)]  # type: ignore[attr-defined]

        def named(text: str) -> None:
            for bar in bars:
                bar.show(text)

        self._progress = Progress(
            self._attacks,
            self.plan.classes,
            int(sum(trainer.num_test_batches)),
            show=partial(print, flush=True) if trainer.is_global_zero else lambda line: None,
            name=named,
        )
        self._progress.begin()

    def prepare(self, block: FullBlock, data: Any) -> None:  # noqa: ANN401 - a data module; optional
        """Finds out what the network is, and trains the substitute: what has to be known before the first attack.

        Args:
            block: The network and the first block.
            data: The data module.

        Raises:
            UserError: If the model does not classify the block better than chance.
        """
        judge, network = Judge(block, 1), block.network
        correct, classes = int((judge.clean.argmax(1) == block.y).sum()), judge.clean.shape[1]
        if wilson(correct, len(block.y))[0] <= 1 / classes:
            raise UserError(
                f"the model is right on {correct} of the first {len(block.y)} test images, which is no better than "
                f"chance with {classes} classes: there is no robustness to audit. Are these its weights (--run, "
                "--ckpt_path), and its data (range, standardisation, order of the classes)?"
            )
        sources = {f"surrogate {n}": network for n, network in enumerate(self.surrogates, start=1)}
        if not sources:
            print("audit: training a substitute network for the transfer check", flush=True)
            images = data.images(train=True).x
            substitute = train_substitute(
                network, images, classes, like=block.x, seed=self.seed, count=self.effort.substitute_images
            )
            sources = {"substitute": substitute}
        every = combinations(network)
        channels, height, width = block.x.shape[1:]
        self.plan = Plan(
            threat=self.threat,
            shape=(channels, height, width),
            classes=classes,
            random=judge.random,
            effort=self.effort,
            backward=self.backward,
            combinations=dict(zip(labels(network, every), every, strict=True)),
            sources=sources,
            substitute=not self.surrogates,
        )
        self._attacks = {name: attack for check in CHECKS for name, attack in check.attacks(self.plan).items()}
        # Names of layers are those of the network, which a faster copy does not keep.
        named = self.backward or len(every) > 1 or judge.random
        self._copy = None if named else fast_copy(network, block.x)

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Audits the block and writes its rows, unless they are there already or no more were asked for."""
        number = batch_idx * trainer.world_size + trainer.global_rank
        if self.images is not None and number >= self._blocks(trainer):
            return  # the last round of several processes
        there = self._store.rows(number) is not None
        super().on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        if self._progress is not None:
            self._progress.end_block(skipped=there)

    def measure(self, block: FullBlock) -> dict[str, Any]:
        """For each attack how right an image is under it, and what the checks measure themselves."""
        assert self.plan is not None, "prepare comes first"
        result = evaluate_block(
            block.network,
            block.x,
            block.y,
            block.index,
            self._attacks,
            size=block.size,
            seed=self.seed,
            draws=self.draws,
            random=self.plan.random,
            copy=self._copy,
            before=self._progress.before if self._progress else lambda name: None,
        )
        columns: dict[str, Any] = {"index": block.index, "label": block.y}
        for row in [CLEAN, *self._attacks]:
            verdict = result.verdicts[row]
            columns |= {RIGHT + row: verdict.right, BEFORE + row: verdict.right_before}
        for check in CHECKS:
            columns |= check.measure(block, self.plan)
        return columns

    def summarise(self, columns: dict[str, Any]) -> dict[str, Any]:
        """`verdict` of the audit, and `findings`, one a check."""
        assert self.plan is not None, "prepare comes first"
        rows = Rows(columns)
        findings = [check.judge(rows, self.plan) for check in CHECKS]
        figures = {row: share(rows.right([row])) for row in [CLEAN, *self._attacks]}
        values = {f"audit/{f.check}": f.value for f in findings if f.value is not None}
        return {
            "verdict": worst([finding.verdict for finding in findings]),
            "threat_model": str(self.threat),
            "random_network": self.plan.random,
            "backward": dict(self.backward),
            "effort": vars(self.effort),
            "findings": [finding.plain() for finding in findings],
            "rows": figures,
            "attacks": {row: describe(attack) for row, attack in self._attacks.items()},
            TABLE: {"audit/clean": figures[CLEAN]["accuracy"], **values},
        }

    @classmethod
    def draw(cls, results: Mapping[str, Results]) -> Figure:
        """An axis a check; several audits share each."""
        return figure.draw(results)

    def _blocks(self, trainer: pl.Trainer) -> int:
        assert self.images is not None
        size: int = data_of(trainer).eval_batch_size
        return ceil(self.images / size)
