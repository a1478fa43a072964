"""Attacks: frozen configurations, called as `x_adv = attack(model, x, y)`. They need torch and nothing else."""

from lit_robust.attacks.apgd import APGD, TargetedAPGD
from lit_robust.attacks.base import Attack
from lit_robust.attacks.eot import EOT
from lit_robust.attacks.fmn import FMN
from lit_robust.attacks.gradient import BIM, FGSM, PGD, RFGSM, RadialPGD
from lit_robust.attacks.minimum_norm import MinimumNormAttack
from lit_robust.attacks.noise import GaussianNoise, UniformNoise
from lit_robust.attacks.worst import Restarts, WorstOf

__all__ = [
    "APGD",
    "BIM",
    "EOT",
    "FGSM",
    "FMN",
    "PGD",
    "RFGSM",
    "Attack",
    "GaussianNoise",
    "MinimumNormAttack",
    "RadialPGD",
    "Restarts",
    "TargetedAPGD",
    "UniformNoise",
    "WorstOf",
]
