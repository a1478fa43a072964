"""Regimes: LightningModules that say how a network is trained."""

from lit_robust.regimes.adversarial import AdversarialTraining
from lit_robust.regimes.autoencoder import Autoencoder
from lit_robust.regimes.base import AttackedClassifier, NonFiniteLossError, RobustClassifier
from lit_robust.regimes.collapse import CollapsedBlockError
from lit_robust.regimes.dictionary_learning import DictionaryLearning
from lit_robust.regimes.hah import HaH
from lit_robust.regimes.interval import IntervalTraining
from lit_robust.regimes.interval_polarizing import IntervalPolarizing
from lit_robust.regimes.natural import Natural
from lit_robust.regimes.partial import PartialTraining
from lit_robust.regimes.polarizing import Polarizing
from lit_robust.regimes.trades import TRADES

__all__ = [
    "TRADES",
    "AdversarialTraining",
    "AttackedClassifier",
    "Autoencoder",
    "CollapsedBlockError",
    "DictionaryLearning",
    "HaH",
    "IntervalPolarizing",
    "IntervalTraining",
    "Natural",
    "NonFiniteLossError",
    "PartialTraining",
    "Polarizing",
    "RobustClassifier",
]
