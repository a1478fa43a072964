"""Regimes: LightningModules that say how a network is trained."""

from lit_robust.regimes.adversarial import AdversarialTraining
from lit_robust.regimes.base import AttackedClassifier, NonFiniteLossError, RobustClassifier
from lit_robust.regimes.natural import Natural
from lit_robust.regimes.trades import TRADES

__all__ = [
    "TRADES",
    "AdversarialTraining",
    "AttackedClassifier",
    "Natural",
    "NonFiniteLossError",
    "RobustClassifier",
]
