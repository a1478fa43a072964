"""What the evaluation and the other measurements of a test refuse, and which part of the test set is measured."""

from __future__ import annotations

from collections.abc import Iterator

from lit_robust.callbacks.measurement import Measurement
from lit_robust.doctor.diagnosis import Diagnosis, ok, refused, skipped, warning
from lit_robust.doctor.subject import Subject
from lit_robust.errors import UserError


def evaluation(subject: Subject) -> Iterator[Diagnosis]:
    """What `RobustEval` refuses: attacks that do not fit the network or the data, and weights of 16 bits."""
    if subject.evaluation is None or not subject.classifies:
        yield skipped("no evaluation")
        return
    try:
        precision = str(subject.trainer.get("precision"))
        subject.evaluation.check(subject.network, subject.data.image_shape, precision)
    except UserError as mistake:
        yield refused(mistake)
    else:
        yield ok(f"{len(subject.evaluation.attacks)} rows")


def measurements(subject: Subject) -> Iterator[Diagnosis]:
    """What the measurements among the trainer's callbacks refuse."""
    found = [callback for callback in subject.callbacks if isinstance(callback, Measurement)]
    fine = True
    for callback in found:
        try:
            callback.check(subject.network, subject.data)
        except UserError as mistake:
            fine = False
            yield refused(mistake)
    if not found:
        yield skipped("no measurement")
    elif fine:
        yield ok(", ".join(type(callback).__name__ for callback in found))


def whole_test_set(subject: Subject) -> Iterator[Diagnosis]:
    """Settings that leave out test images."""
    limits = {
        "trainer.limit_test_batches": subject.trainer.get("limit_test_batches"),
        "trainer.fast_dev_run": subject.trainer.get("fast_dev_run") or None,
        "evaluation.budget": None if subject.evaluation is None else subject.evaluation.budget,
    }
    given = {name: value for name, value in limits.items() if value is not None and value != 1.0}
    if given:
        yield warning(
            f"a test leaves out images: {', '.join(f'{name} is {value}' for name, value in given.items())}",
            "leave these settings out for figures that are published, or say beside them how many images they are of",
        )
    else:
        yield ok("a test is of the whole test set")
