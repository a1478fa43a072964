"""Evaluation of any classifier: per-sample verdicts in fixed blocks, figures with their protocol and interval."""

from lit_robust.evaluation.block import BlockResult, Verdict, evaluate_block
from lit_robust.evaluation.interval import wilson
from lit_robust.evaluation.store import SampleStore
from lit_robust.evaluation.summary import summarise

__all__ = ["BlockResult", "SampleStore", "Verdict", "evaluate_block", "summarise", "wilson"]
