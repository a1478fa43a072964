"""`report`: one page about one run or several, with every figure beside its protocol and the verdict of its audit."""

from lit_robust.report.command import report

__all__ = ["report"]
