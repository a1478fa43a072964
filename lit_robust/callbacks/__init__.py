"""Callbacks: robust evaluation, measurements on the test set, checkpoints, progress."""

from lit_robust.callbacks.adversarial_loss import AdversarialLoss
from lit_robust.callbacks.batch_norm_statistics import BatchNormStatistics
from lit_robust.callbacks.certified_accuracy import CertifiedAccuracy
from lit_robust.callbacks.channel_activity import ChannelActivity
from lit_robust.callbacks.checkpoints import AtomicCheckpointIO, Checkpoints
from lit_robust.callbacks.corruption_accuracy import CorruptionAccuracy
from lit_robust.callbacks.danger_zones import DangerZones
from lit_robust.callbacks.eps_curve import EpsCurve
from lit_robust.callbacks.filter_responses import FilterResponses
from lit_robust.callbacks.filter_sparsity import FilterSparsity
from lit_robust.callbacks.grad_cam_maps import GradCAMMaps
from lit_robust.callbacks.layer_measurement import LayerMeasurement
from lit_robust.callbacks.layer_psr import LayerPSR
from lit_robust.callbacks.layer_snr import LayerSNR
from lit_robust.callbacks.layer_sparsity import LayerSparsity
from lit_robust.callbacks.measurement import Measurement
from lit_robust.callbacks.noise_accuracy import NoiseAccuracy
from lit_robust.callbacks.overfitting_guard import OverfittingGuard
from lit_robust.callbacks.polarization_stages import PolarizationStages
from lit_robust.callbacks.progress import AttackProgressBar
from lit_robust.callbacks.psr_progress import PSRProgress
from lit_robust.callbacks.robust_eval import RobustEval
from lit_robust.callbacks.singular_values import SingularValues
from lit_robust.callbacks.sparse_codes import SparseCodes
from lit_robust.callbacks.weight_statistics import WeightStatistics

__all__ = [
    "AdversarialLoss",
    "AtomicCheckpointIO",
    "AttackProgressBar",
    "BatchNormStatistics",
    "CertifiedAccuracy",
    "ChannelActivity",
    "Checkpoints",
    "CorruptionAccuracy",
    "DangerZones",
    "EpsCurve",
    "FilterResponses",
    "FilterSparsity",
    "GradCAMMaps",
    "LayerMeasurement",
    "LayerPSR",
    "LayerSNR",
    "LayerSparsity",
    "Measurement",
    "NoiseAccuracy",
    "OverfittingGuard",
    "PSRProgress",
    "PolarizationStages",
    "RobustEval",
    "SingularValues",
    "SparseCodes",
    "WeightStatistics",
]
