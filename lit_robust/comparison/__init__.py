"""`compare`: one evaluation, unchanged, of several runs, and how they differ image by image."""

from lit_robust.comparison.command import compare

__all__ = ["compare"]
