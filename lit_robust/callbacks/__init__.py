"""Callbacks: robust evaluation, checkpoints, progress."""

from lit_robust.callbacks.checkpoints import AtomicCheckpointIO, Checkpoints
from lit_robust.callbacks.progress import AttackProgressBar
from lit_robust.callbacks.robust_eval import RobustEval

__all__ = ["AtomicCheckpointIO", "AttackProgressBar", "Checkpoints", "RobustEval"]
