"""Evaluation of any classifier: per-sample verdicts in fixed blocks, figures with their protocol and interval."""

from lit_robust.evaluation.block import evaluate_block
from lit_robust.evaluation.interval import wilson
from lit_robust.evaluation.store import SampleStore
from lit_robust.evaluation.summary import summarise
from lit_robust.evaluation.verdict import BlockResult, Verdict

__all__ = ["BlockResult", "SampleStore", "Verdict", "evaluate_block", "summarise", "wilson"]
