"""The command `combine`: read finished tests, check that they belong together, write and print their joint figures."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_robust import runs
from lit_robust.callbacks.robust_report import RESULTS
from lit_robust.combination import joint
from lit_robust.combination.alike import check_alike, on_common
from lit_robust.combination.part import load
from lit_robust.errors import UserError
from lit_robust.evaluation.store import PER_SAMPLE, PartStore
from lit_robust.evaluation.table import results_table

_TITLE = "combined"
_COMMON = "--common"

HELP = """usage: python -m lit_robust combine TEST TEST... [--common]

Puts finished tests of one network on the same images together, as if all their attacks had run in one test: for each
threat model the worst case of every image over all adversaries. A TEST is a folder runs/NAME/N/tests/TITLE-N. Attacks
keep their names; one that two tests have becomes `name (TITLE-N)`. results.json and per_sample.parquet go to
tests/combined-<n>/ of the first test's run. The row `clean` is that of the first test.

  --common  takes the images that all tests have, where they were of different lengths"""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to combine.

    Attributes:
        folders: Folders of the tests.
        common: Whether images that some tests do not have are left out.
    """

    folders: tuple[Path, ...]
    common: bool


def combine(argv: Sequence[str]) -> None:
    """Combines finished tests.

    Args:
        argv: What follows `combine`.

    Raises:
        UserError: If a test is not finished, or the tests are not of the same network and images.
    """
    if any(a in ("-h", "--help") for a in argv):
        print(HELP)
        return
    asked = read(argv)
    parts = [load(folder) for folder in asked.folders]
    check_alike(parts)
    content, table = joint.combined(on_common(parts, asked.common))
    parent = os.path.relpath(asked.folders[0] / os.pardir)  # of `.`, too
    folder = runs.claim(Path(parent), f"{_TITLE}-")
    try:
        store = PartStore(folder / PER_SAMPLE)
        store.write_table(0, table)
        store.merge()
        store.clear()
        _write(folder / RESULTS, {"title": folder.name, **content})
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise UserError(f"cannot write to {folder}: {error.strerror or error}") from error
        raise
    _print(folder, content)


def read(argv: Sequence[str]) -> Request:
    """Takes a command line apart.

    Args:
        argv: What follows `combine`.

    Raises:
        UserError: If there are fewer than two tests, one is given twice, or an option is not known.
    """
    unknown = [a for a in argv if a.startswith("-") and a != _COMMON]
    if unknown:
        raise UserError(f"combine knows no option {unknown[0]}; there is {_COMMON}, and all else are folders of tests")
    folders = tuple(Path(a) for a in argv if a != _COMMON)
    if len(folders) < 2:
        raise UserError(
            f"combine needs two finished tests or more, such as runs/NAME/1/tests/linf_8-1; got {len(folders)}"
        )
    seen: dict[Path, Path] = {}
    for folder in folders:
        if folder.resolve() in seen:
            raise UserError(f"{folder} and {seen[folder.resolve()]} are the same test")
        seen[folder.resolve()] = folder
    return Request(folders=folders, common=_COMMON in argv)


def _write(path: Path, content: dict[str, Any]) -> None:
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    os.replace(aside, path)


def _print(folder: Path, content: dict[str, Any]) -> None:
    from rich.console import Console

    title = f"{folder.name}: {', '.join(content['protocol']['combined'])}"
    common = content["protocol"].get("common")
    if common is not None:
        had = ", ".join(f"{n:,}" for n in common["of"])
        title += f"\non the {common['n']:,} images that all tests have (of {had}); seconds are of the whole tests"
    Console(width=120).print(results_table(content, title))
    print(f"results: {folder / RESULTS}")
