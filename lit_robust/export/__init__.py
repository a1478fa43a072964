"""The command `export`: weights that load without this package's checkpoints, and a claim about them."""

from lit_robust.export.command import main

__all__ = ["main"]
