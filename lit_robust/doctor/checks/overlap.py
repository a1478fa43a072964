"""Images that are in more than one of the training, validation and test sets."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b

import torch
from torch import Tensor

from lit_robust.doctor.diagnosis import Diagnosis, error, ok, skipped, warning
from lit_robust.doctor.subject import Subject

# Published data sets hold a few duplicates: among 10,000 test images of Fashion-MNIST and CIFAR-10 some tens.
_WARN, _FAIL = 0.005, 0.05  # shares of the evaluated images


def overlap(subject: Subject) -> Iterator[Diagnosis]:
    """Whether test images are among those that are trained on or chosen by, and validation among training images."""
    data = subject.data
    train, test = data.images(train=True), data.images(train=False)
    trained, held_out = data.split if data.val_split else (torch.arange(len(train)), torch.empty(0, dtype=torch.int64))
    sets = {
        "training": _hashes(train.x[trained]),
        "validation": _hashes(train.x[held_out]),
        "test": _hashes(test.x),
    }
    found, fine = [], True
    for evaluated, known in (("test", "training"), ("test", "validation"), ("validation", "training")):
        if not sets[evaluated] or not sets[known]:
            continue
        there = set(sets[known])
        twice = sum(each in there for each in sets[evaluated])
        share = twice / len(sets[evaluated])
        told = f"{twice} of {len(sets[evaluated])} {evaluated} images are {known} images too"
        found.append(told)
        if share > _WARN:
            fine = False
            say = error if share > _FAIL else warning
            yield say(told, f"take another set for {evaluated}: accuracy on images that are known says nothing")
    if fine:
        yield ok("; ".join(found)) if found else skipped("there is one set alone")


def _hashes(x: Tensor) -> list[bytes]:
    """A digest of each image."""
    return [blake2b(image, digest_size=16).digest() for image in x.contiguous().flatten(1).numpy()]
