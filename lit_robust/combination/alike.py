"""What tests need to have in common before they say something jointly: network, images, labels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

from lit_robust import runs
from lit_robust.combination.part import Part
from lit_robust.errors import UserError
from lit_robust.evaluation.verdict import CLEAN

_NETWORK, _WEIGHTS, _IMAGES = "network", "weights", "images"  # digests in `results.json`


def check_alike(parts: Sequence[Part]) -> None:
    """Refuses tests of different networks, images or labels.

    Draws, attacks, seeds and the sizes of blocks may differ.

    Args:
        parts: The tests, which the first is compared with.

    Raises:
        UserError: Naming what differs, or what a test does not say about itself.
    """
    for part in parts:
        _check_known(part)
    first = parts[0]
    for part in parts[1:]:
        found = _network(first, part) + _images(first, part)
        if found:
            raise UserError(
                f"{first.folder} and {part.folder} are not of the same network on the same images: "
                f"{'; '.join(found)}. Tests that differ in these are for `compare`"
            )


def on_common(parts: Sequence[Part], allowed: bool) -> list[Part]:
    """The tests on the images that all of them have.

    Args:
        parts: The tests.
        allowed: Whether images that some tests do not have may be left out.

    Raises:
        UserError: If that is needed and not allowed, or no image is left.
    """
    if all(np.array_equal(part.index, parts[0].index) for part in parts):
        return list(parts)
    common = reduce(np.intersect1d, [part.index for part in parts])
    counts = ", ".join(f"{part.folder} has {len(part.index):,}" for part in parts)
    if not len(common):
        raise UserError(f"the tests have no image in common: {counts}")
    if not allowed:
        raise UserError(
            f"the tests are of different images of one data set: {counts}, and {len(common):,} are in all. "
            "--common takes those alone"
        )
    return [part.only(common) for part in parts]


def _check_known(part: Part) -> None:
    """Refuses a test that does not say which weights and images it was of."""
    digests = [_weights(part), part.results.get(_IMAGES)]
    missing = [name for name, digest in zip((_WEIGHTS, _IMAGES), digests, strict=True) if digest is None]
    if missing:
        raise UserError(
            f"{part.folder} does not say which {' and '.join(missing)} it was of, so nobody can know whether it "
            "belongs to another test; run this test again"
        )


def _weights(part: Part) -> str | None:
    """A digest of the weights; that of the checkpoint says nothing where there was none."""
    digest: str | None = part.results.get(_NETWORK)
    if digest is None and part.results.get("checkpoint") is not None:
        digest = part.results.get(_WEIGHTS)
    return digest


def _network(first: Part, part: Part) -> list[str]:
    """How two networks differ, in words."""
    found = []
    for path in ("model.init_args.network", "trainer.precision"):
        differing = runs.differences(_at(first, path), _at(part, path))
        found += [f"other settings in {'.'.join(filter(None, (path, key)))}" for key in differing]
    key = _NETWORK if all(each.results.get(_NETWORK) is not None for each in (first, part)) else _WEIGHTS
    if first.results.get(key) != part.results.get(key):
        names = [f"{each.results.get('checkpoint')}" for each in (first, part)]
        found.append(f"other weights ({names[0]} and {names[1]}, as they were at the time)")
    return found


def _images(first: Part, part: Part) -> list[str]:
    """How the images of two tests differ, in words."""
    common = np.intersect1d(first.index, part.index)
    one, other = (each.samples(CLEAN)["label"][np.isin(each.index, common)] for each in (first, part))
    if not np.array_equal(one, other):
        return [f"other labels of {int((one != other).sum()):,} images"]
    if first.results.get(_IMAGES) == part.results.get(_IMAGES):
        return []
    data = [_data(first), _data(part)]
    return [f"other images ({' and '.join(data) if data[0] != data[1] else f'{data[0]}, from other files'})"]


def _at(part: Part, path: str) -> object:
    """What a test's settings say at a dotted path."""
    node: object = part.config
    for key in path.split("."):
        node = node.get(key) if isinstance(node, dict) else None
    return node


def _data(part: Part) -> str:
    shape = {key: _at(part, f"data.init_args.{key}") for key in ("size", "channels", "root")}
    given = [f"{key} {value}" for key, value in shape.items() if value is not None]
    return ", ".join([str(part.results.get("data")), *given])
