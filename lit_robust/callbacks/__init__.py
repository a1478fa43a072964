"""Callbacks: robust evaluation, measurements on the test set, checkpoints, progress."""

from lit_robust.callbacks.channel_activity import ChannelActivity
from lit_robust.callbacks.checkpoints import AtomicCheckpointIO, Checkpoints
from lit_robust.callbacks.corruption_accuracy import CorruptionAccuracy
from lit_robust.callbacks.grad_cam_maps import GradCAMMaps
from lit_robust.callbacks.layer_measurement import LayerMeasurement
from lit_robust.callbacks.layer_snr import LayerSNR
from lit_robust.callbacks.layer_sparsity import LayerSparsity
from lit_robust.callbacks.measurement import Measurement
from lit_robust.callbacks.noise_accuracy import NoiseAccuracy
from lit_robust.callbacks.progress import AttackProgressBar
from lit_robust.callbacks.robust_eval import RobustEval

__all__ = [
    "AtomicCheckpointIO",
    "AttackProgressBar",
    "ChannelActivity",
    "Checkpoints",
    "CorruptionAccuracy",
    "GradCAMMaps",
    "LayerMeasurement",
    "LayerSNR",
    "LayerSparsity",
    "Measurement",
    "NoiseAccuracy",
    "RobustEval",
]
