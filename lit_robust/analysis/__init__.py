"""Measures of what happens inside a network, as pure functions of activations. They need torch and nothing else."""

from lit_robust.analysis.activity import (
    activity_rates,
    channel_means,
    disparity,
    most_active,
    nearly_always,
    nearly_never,
    patch_norms,
)
from lit_robust.analysis.dictionary_properties import dictionary_properties
from lit_robust.analysis.grad_cam import grad_cam
from lit_robust.analysis.patch_responses import patch_responses, symmetric_density
from lit_robust.analysis.polarization import danger_shares, largest_taps, response_histogram
from lit_robust.analysis.psr import psr, truncate_8_bit
from lit_robust.analysis.snr import decibel, snr
from lit_robust.analysis.sparsity import hoyer

__all__ = [
    "activity_rates",
    "channel_means",
    "danger_shares",
    "decibel",
    "dictionary_properties",
    "disparity",
    "grad_cam",
    "hoyer",
    "largest_taps",
    "most_active",
    "nearly_always",
    "nearly_never",
    "patch_norms",
    "patch_responses",
    "psr",
    "response_histogram",
    "snr",
    "symmetric_density",
    "truncate_8_bit",
]
