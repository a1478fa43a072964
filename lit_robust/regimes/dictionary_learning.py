"""Learning a patch dictionary."""

from __future__ import annotations

import json
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_robust import sampling
from lit_robust.analysis.dictionary_properties import dictionary_properties
from lit_robust.data.patches import centred, random_patches
from lit_robust.errors import UserError
from lit_robust.loggers import log_figure
from lit_robust.nn.dictionary import FILE, PatchAtoms, PatchDictionary
from lit_robust.regimes.base import Batch, RobustClassifier
from lit_robust.regimes.dictionary_figure import atoms_figure
from lit_robust.regimes.online_dictionary import OnlineDictionary

_STATE = "dictionary"  # key of the learner in a checkpoint


class DictionaryLearning(RobustClassifier):
    """Learns atoms from random patches of the training images by scikit-learn (dissertation, section 4.2.1).

    An image gives `patches` of them, drawn when its batch comes, and a step learns from all mini-batches of a batch of
    images; so no patch is drawn that is not used. The run ends after `mini_batches`, whatever `trainer.max_epochs` is.
    Its folder then holds the atoms at norm 1 with their settings, `dictionary.pt`; how redundant they are,
    `dictionary.json`; and a picture, `dictionary.png` (Fig. 4.12).

    Args:
        network: The atoms.
        alpha: Weight of the L1 norm of the codes, λ.
        mini_batches: Mini-batches that it learns from. scikit-learn 0.22 called them iterations; today's counts epochs.
        mini_batch: Patches in a mini-batch.
        patches: Patches an image, at random places of the grid.
        stride: Distance of neighbouring places of the grid in pixels.
        centre: Whether each patch's mean is subtracted, over all its pixels and channels.
        sample: Patches whose singular vectors are the first atoms.

    Raises:
        UserError: If a number is outside its range.
    """

    network: PatchAtoms

    def __init__(
        self,
        network: PatchAtoms,
        *,
        alpha: float = 1.0,
        mini_batches: int = 1000,
        mini_batch: int = 5,
        patches: int = 1,
        stride: int = 2,
        centre: bool = False,
        sample: int = 1000,
    ) -> None:
        super().__init__(network)
        self.automatic_optimization = False
        numbers = {"mini_batches": mini_batches, "mini_batch": mini_batch, "patches": patches, "stride": stride}
        for name, value in {**numbers, "sample": sample}.items():
            if value < 1:
                raise UserError(f"expected {name} of DictionaryLearning to be at least 1, got {value}")
        if not alpha > 0:
            raise UserError(f"expected alpha of DictionaryLearning above 0, got {alpha}")
        self.alpha, self.centre, self.sample = alpha, centre, sample
        self.mini_batches, self.mini_batch, self.patches, self.stride = mini_batches, mini_batch, patches, stride
        self._learner: OnlineDictionary | None = None
        self._restored: dict[str, Any] | None = None

    def loss(self, x: Tensor, y: Tensor, key: Tensor) -> dict[str, Tensor]:
        """Nothing: atoms are learned without gradients."""
        return {}

    def setup(self, stage: str) -> None:
        """Refuses what cannot be done with a dictionary, and sets the number of steps.

        Raises:
            UserError: For other commands than `fit`, several processes, or data that do not fit.
        """
        super().setup(stage)
        if stage != "fit":
            raise UserError("a dictionary can only be learned (fit); a sparse front end uses it as encoder.dictionary")
        if self.trainer.world_size > 1:
            raise UserError("a dictionary is learned one mini-batch after another; set trainer.devices=1")
        loop = self.trainer.fit_loop
        loop.max_epochs, loop.epoch_loop.max_steps = -1, self._steps(self.trainer.datamodule)  # type: ignore[attr-defined]

    def check(self, data: Any) -> None:  # noqa: ANN401 - a data module
        """Refuses atoms that do not fit the images.

        Raises:
            UserError: If they have other channels, or are larger.
        """
        channels, height, width = data.image_shape
        _, own, patch, _ = self.network.atoms.shape
        if own != channels or patch > min(height, width):
            raise UserError(
                f"atoms of {own} x {patch} x {patch} do not fit the data's {channels} x {height} x {width} images; set "
                "network.in_channels, or a smaller network.patch"
            )

    def on_fit_start(self) -> None:
        """Starts from singular vectors of a sample, or from the checkpoint."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        where = data.split[0]
        index = where[:: max(1, len(where) // self.sample)][: self.sample]
        images = data.images(train=True).x[index]
        # The restart keeps these places apart from those that the steps draw.
        noise = sampling.Noise(sampling.keys(index, seed=sampling.run_seed()), restart=1)
        seed, atoms = sampling.run_seed(), len(self.network.atoms)
        start = self._patches(images.double() / 255, noise, count=1)
        self._learner = OnlineDictionary(atoms=atoms, alpha=self.alpha, seed=seed, start=start)
        if self._restored is not None:
            self._learner.load_state_dict(self._restored)

    def training_step(self, batch: Batch, batch_idx: int) -> None:  # type: ignore[override]
        """Learns from the mini-batches of a batch of images."""
        x, _, index = batch
        assert self._learner is not None, "fit starts before its first step"
        noise = sampling.Noise(sampling.keys(index, seed=sampling.run_seed(), epoch=self.current_epoch))
        left = (self.mini_batches - self._learner.mini_batches) * self.mini_batch
        before = self.network.atoms.clone()
        self._learner.learn(self._patches(x, noise, self.patches)[:left], self.mini_batch)
        self.network.atoms.copy_(self._learner.atoms)
        moved = (self.network.atoms - before).flatten(1).norm(dim=1).mean()
        self.log("train/moved", moved, prog_bar=True, batch_size=len(x))
        self.log("train/mini_batches", float(self._learner.mini_batches), batch_size=len(x))
        self.optimizers().step()  # type: ignore[union-attr]  # counts the step

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Nothing."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """An optimizer of nothing: the Trainer counts its steps."""
        return torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=0.0)

    def on_train_start(self) -> None:
        """Nothing: there is no schedule."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what the learner has learned."""
        super().on_save_checkpoint(checkpoint)
        if self._learner is not None:
            checkpoint[_STATE] = self._learner.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps what the learner had learned, for the start."""
        super().on_load_checkpoint(checkpoint)
        self._restored = checkpoint.get(_STATE)

    def on_fit_end(self) -> None:
        """Writes the dictionary, its properties and its picture, if it is complete."""
        if self._learner is None or self._learner.mini_batches < self.mini_batches:
            return
        folder = Path(self.trainer.default_root_dir)
        dictionary = PatchDictionary.of(self._learner.atoms, **self._settings(self._learner.mini_batches))
        dictionary.save(folder / FILE)
        figures = {"settings": dict(dictionary.settings), "properties": dictionary_properties(dictionary.atoms)}
        (folder / FILE).with_suffix(".json").write_text(json.dumps(figures, indent=2) + "\n")
        count, patch = len(dictionary.atoms), dictionary.settings["patch"]
        title = f"{count} atoms of {patch} x {patch} pixels, each scaled to its range"
        figure = atoms_figure(dictionary.atoms, title if count <= 400 else f"The last 400 of {title}")
        figure.savefig((folder / FILE).with_suffix(".png"), dpi=120)
        log_figure(self.trainer.loggers, "dictionary", figure, self.trainer.global_step)
        print(f"dictionary: {folder / FILE}")

    def _settings(self, mini_batches: int) -> dict[str, Any]:
        from sklearn import __version__

        return {
            "alpha": self.alpha,
            "mini_batches": mini_batches,
            "mini_batch": self.mini_batch,
            "stride": self.stride,
            "mean_removed": self.centre,
            "data": self.trainer.datamodule.name,  # type: ignore[attr-defined]
            "seed": sampling.run_seed(),
            "scikit_learn": __version__,
        }

    def _patches(self, x: Tensor, noise: sampling.Noise, count: int) -> Tensor:
        patch = self.network.atoms.shape[2]
        patches = random_patches(x, noise, patch=patch, stride=self.stride, count=count)
        return centred(patches) if self.centre else patches

    def _steps(self, data: Any) -> int:  # noqa: ANN401 - a data module
        """Batches until all mini-batches are learned from; the last batch of an epoch may be shorter."""
        sizes = [len(part) * self.patches // self.mini_batch for part in data.split[0].split(data.batch_size)]
        limit = self.trainer.limit_train_batches
        sizes = sizes[:limit] if isinstance(limit, int) else sizes
        if not sum(sizes):
            raise UserError(
                f"{data.batch_size} images with {self.patches} patches each do not fill a mini-batch of "
                f"{self.mini_batch}; set a larger data.batch_size"
            )
        done = steps = 0
        for size in cycle(sizes):
            done, steps = done + size, steps + 1
            if done >= self.mini_batches:
                return steps
        raise AssertionError("sizes are not empty")
