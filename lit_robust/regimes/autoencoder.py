"""Training by reconstruction: a front end that gives its images back, without labels."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_robust import sampling
from lit_robust.errors import UserError
from lit_robust.modes import network_mode
from lit_robust.regimes.base import Batch, RobustClassifier

_PROBES = 4  # images of random pixels that the network is tried on


class Autoencoder(RobustClassifier):
    """Squared error between images and what the network makes of them; arguments as for `RobustClassifier`.

    For the unsupervised front end of section 4.2: the decoder learns to give the augmented image back, while what has
    no parameters, such as an encoder with a fixed dictionary, stays as it is. A classifier is then trained behind it,
    `Pipeline` of `FromRun` with this run and the classifier. It has no classes, so it cannot be tested or attacked.

    Validation logs `val/psnr`, the mean over the images of the peak signal-to-noise ratio in dB: −10·log10 of an
    image's mean squared error, for pixels in [0, 1].
    """

    val_metrics = ("val/psnr",)

    def setup(self, stage: str) -> None:
        """Refuses what needs classes, and a network that does not fit the data, before any work.

        Raises:
            UserError: For `test` and `predict`, and for an attack on the validation set.
        """
        callbacks = getattr(self.trainer, "callbacks", [])
        if stage in ("test", "predict") or any(getattr(each, "val_attack", None) for each in callbacks):
            raise UserError(
                "an autoencoder has no classes, so nothing can be tested or attacked; train a classifier behind it, as "
                "sparse_unsupervised.yaml does: a Pipeline of FromRun with this run and the classifier"
            )
        super().setup(stage)

    def check(self, data: Any) -> None:  # noqa: ANN401 - anything with `image_shape`
        """Refuses a network that does not map the data's images to images of that shape.

        Raises:
            UserError: If it does not.
        """
        parameter = next(self.network.parameters(), torch.empty(0))
        x = torch.rand(_PROBES, *data.image_shape, generator=torch.Generator().manual_seed(0)).to(parameter)
        shape, name = "x".join(map(str, data.image_shape)), type(self.network).__name__
        try:
            with network_mode(self.network, train=False), torch.no_grad():
                images = self.network(x)
        except (ValueError, RuntimeError, TypeError, IndexError) as error:
            raise UserError(f"{name} does not take the data's {shape} images: {error}") from error
        if not isinstance(images, Tensor) or images.shape != x.shape:
            got = f"shape {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
            raise UserError(
                f"expected {name} to give images like the data's back, of shape {tuple(x.shape)} for {_PROBES} "
                f"images, got {got}; a classifier is trained by another regime, such as Natural"
            )
        for cost in self.layer_costs:
            cost.check(self.network)

    def forward(self, x: Tensor) -> Tensor:
        """Reconstructions of images, (N, C, H, W)."""
        images: Tensor = self.network(x)
        return images

    def loss(self, x: Tensor, y: Tensor, key: Tensor) -> dict[str, Tensor]:
        """`mse`: squared error to the images that came in, the mean over pixels, channels and images."""
        return {"mse": F.mse_loss(self.network(x), x)}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Squared error, and the peak signal-to-noise ratio, on the validation part of the training set."""
        x, _, index = batch
        with sampling.Noise(sampling.keys(index)).keyed(sampling.CHECK):
            error = (self(x) - x).square().flatten(1).mean(1)
        psnr = -10.0 * error.clamp(min=1e-10).log10()
        self.log("val/loss", error.mean(), batch_size=len(x), sync_dist=True)
        self.log("val/psnr", psnr.mean(), batch_size=len(x), sync_dist=True, prog_bar=True)
