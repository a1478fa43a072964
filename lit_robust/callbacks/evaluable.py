"""What an evaluation refuses before any work."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from lit_robust.attacks import Attack
from lit_robust.attacks.minimum_norm import counted_in
from lit_robust.errors import UserError
from lit_robust.evaluation.screening import check


def check_evaluation(
    attacks: Iterable[Attack],
    val_attack: Attack | None,
    network: nn.Module,
    image_shape: tuple[int, ...],
    precision: str,
) -> None:
    """Refuses what could not be measured.

    Args:
        attacks: The attacks of a test.
        val_attack: The attack on the validation set, or None.
        network: The network under attack.
        image_shape: (C, H, W) of the data.
        precision: That of the trainer.

    Raises:
        UserError: If a radius holds every image, an attack is targeted or goes through backward passes that the network
            does not have, the attack on the validation set has no radius, or the weights are 16-bit.
    """
    if precision in ("16-true", "bf16-true"):
        raise UserError(
            f"robust accuracy needs float32 or float64 weights: trainer.precision {precision} rounds adversarial "
            "images out of the ball; train with bf16-mixed"
        )
    for attack in [*attacks, *([val_attack] if val_attack else [])]:
        counted_in(attack).check_shape(image_shape)
        if attack.targeted:
            raise UserError("targeted attacks need classes to reach, which evaluation does not have")
        check(attack, network)
    if val_attack is not None and counted_in(val_attack).eps is None:
        raise UserError("val_attack breaks images at any distance, which val/robust cannot tell; set its eps")
