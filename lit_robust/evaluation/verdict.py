"""What an evaluation found out about the samples of a block."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

CLEAN = "clean"  # name of the verdict on the images as they are


@dataclass(frozen=True)
class Verdict:
    """What one attack did to the samples of a block, all (N,) unless stated.

    Attributes:
        broken: Not classified correctly after the attack (or before it, for an adversary); for a minimum-norm attack
            with a radius, within it. On a random network: in at least half of the draws.
        right: Share of fresh draws that are right, for a random network; else 1 or 0, the opposite of `broken`.
        right_before: The same on the draws before those, by which one attack is preferred to another.
        margin: True logit minus the largest other, on the final images.
        distance: Distance of the final images, in the threat model's norm; a minimum-norm attack that found nothing
            leaves the clean image.
        forwards: Forward passes.
        backwards: Backward passes.
        survives: Broken, and still so when the final image is rounded to 8 bits, in the ball and wrong.
        x_adv: Final images, (N, C, H, W); the clean ones of samples that were wrong already.
        seconds: Time that the attack took for the block.
    """

    broken: Tensor
    right: Tensor
    right_before: Tensor
    margin: Tensor
    distance: Tensor
    forwards: Tensor
    backwards: Tensor
    survives: Tensor
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
        x: The clean images, (N, C, H, W).
        verdicts: Verdict of each attack.
        random: Whether the network draws noise when it predicts.
    """

    index: Tensor
    label: Tensor
    prediction: Tensor
    margin: Tensor
    x: Tensor
    verdicts: dict[str, Verdict]
    random: bool
