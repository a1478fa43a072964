"""A front end and a classifier as two named parts of a deployed model."""

from __future__ import annotations

from torch import nn

from lit_robust.nn.pipeline import Pipeline


class DefendedClassifier(Pipeline):
    """The pipeline of a front end and a classifier.

    A config that is laid over another one, or the command line, can then change either alone, which it cannot in a
    list of stages: `--model.network.front_end.encoder.top.t 5`. Layers are named as in a `Pipeline`: `stages.0.…` is
    the front end, `stages.1.…` the classifier.

    Args:
        front_end: Images in [0, 1] to what the classifier takes.
        classifier: What the front end gives to logits.
    """

    def __init__(self, front_end: nn.Module, classifier: nn.Module) -> None:
        super().__init__([front_end, classifier])
