"""Interval bounds of any network: what it can answer on a box of inputs (Gowal et al., 2018)."""

from lit_robust.bounds.propagation import FLOAT32, interval, margins

__all__ = ["FLOAT32", "interval", "margins"]
