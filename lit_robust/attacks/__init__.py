"""Attacks: frozen configurations, called as `x_adv = attack(model, x, y)`. They need torch and nothing else."""

from lit_robust.attacks.adaptive import Adaptive
from lit_robust.attacks.apgd import APGD, TargetedAPGD
from lit_robust.attacks.auto_attack import AutoAttack
from lit_robust.attacks.base import Attack
from lit_robust.attacks.boundary import Boundary
from lit_robust.attacks.eot import EOT
from lit_robust.attacks.fab import FAB, TargetedFAB
from lit_robust.attacks.fmn import FMN
from lit_robust.attacks.gradient import BIM, FGSM, PGD, RFGSM, RadialPGD
from lit_robust.attacks.hop_skip_jump import HopSkipJump
from lit_robust.attacks.minimum_norm import MinimumNormAttack
from lit_robust.attacks.noise import GaussianNoise, UniformNoise
from lit_robust.attacks.smoothed_pgd import SmoothedPGD
from lit_robust.attacks.square import Square
from lit_robust.attacks.starts import BlendedNoise, NearestImage
from lit_robust.attacks.through import Through
from lit_robust.attacks.transfer import Transfer
from lit_robust.attacks.worst import Restarts, WorstOf
from lit_robust.attacks.zoo import ZOO

__all__ = [
    "APGD",
    "BIM",
    "EOT",
    "FAB",
    "FGSM",
    "FMN",
    "PGD",
    "RFGSM",
    "ZOO",
    "Adaptive",
    "Attack",
    "AutoAttack",
    "BlendedNoise",
    "Boundary",
    "GaussianNoise",
    "HopSkipJump",
    "MinimumNormAttack",
    "NearestImage",
    "RadialPGD",
    "Restarts",
    "SmoothedPGD",
    "Square",
    "TargetedAPGD",
    "TargetedFAB",
    "Through",
    "Transfer",
    "UniformNoise",
    "WorstOf",
]
