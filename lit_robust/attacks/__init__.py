"""Attacks: frozen configurations, called as `x_adv = attack(model, x, y)`. They need torch and nothing else."""

from lit_robust.attacks.base import Attack
from lit_robust.attacks.eot import EOT
from lit_robust.attacks.gradient import BIM, FGSM, PGD, RFGSM, RadialPGD
from lit_robust.attacks.noise import GaussianNoise, UniformNoise
from lit_robust.attacks.worst import Restarts, WorstOf

__all__ = [
    "BIM",
    "EOT",
    "FGSM",
    "PGD",
    "RFGSM",
    "Attack",
    "GaussianNoise",
    "RadialPGD",
    "Restarts",
    "UniformNoise",
    "WorstOf",
]
