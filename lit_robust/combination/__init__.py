"""`combine`: finished tests of one network on the same images, put together into one evaluation."""

from lit_robust.combination.command import combine

__all__ = ["combine"]
