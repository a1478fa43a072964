"""Train, attack and explain image classifiers with structural defenses.

What is imported here needs torch and nothing else: `x_adv = PGD(threat=ThreatModel("8/255"))(model, x, y)`.
"""

from lit_robust.attacks import (
    APGD,
    BIM,
    FGSM,
    FMN,
    PGD,
    RFGSM,
    Attack,
    GaussianNoise,
    Restarts,
    TargetedAPGD,
    UniformNoise,
    WorstOf,
)
from lit_robust.threat import ThreatModel

__version__ = "0.1.0"
__all__ = [
    "APGD",
    "BIM",
    "FGSM",
    "FMN",
    "PGD",
    "RFGSM",
    "Attack",
    "GaussianNoise",
    "Restarts",
    "TargetedAPGD",
    "ThreatModel",
    "UniformNoise",
    "WorstOf",
    "__version__",
]
