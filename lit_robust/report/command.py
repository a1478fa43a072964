"""The command `report`: read the runs, make the sections, write the page and its pictures."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from lit_robust import runs
from lit_robust.evaluation.store import writing
from lit_robust.report import material, request
from lit_robust.report.material import Model
from lit_robust.report.page import Section, page
from lit_robust.report.pictures import Pictures
from lit_robust.report.request import Request
from lit_robust.report.sections import attacks, audit, differences, hardest, measured, norms, seeds, summary, training
from lit_robust.report.sections.head import head

PAGE = "report.html"


def report(argv: Sequence[str]) -> None:
    """Writes the page about some runs.

    Args:
        argv: What follows `report`.

    Raises:
        UserError: If a run is not there, has no results or is of other data, or the page cannot be written.
    """
    if any(a in ("-h", "--help") for a in argv):
        print(request.HELP)
        return
    asked = request.read(argv)
    models = material.read(asked)
    path, pictures = _place(asked)
    try:
        text = page(_title(models), head(models, _line(argv)), sections(models, pictures))
        aside = path.with_name(f"{path.name}.part")
        with writing(path.parent, path.name):
            aside.write_text(text, encoding="utf-8")
            os.replace(aside, path)
    finally:
        if asked.to is None and not any(path.parent.iterdir()):
            path.parent.rmdir()
    for remark in (remark for model in models for remark in model.remarks):
        print(remark)
    print(f"report: {path} ({path.stat().st_size / 1e6:.1f} MB, and {len(pictures.written)} pictures beside it)")


def sections(models: Sequence[Model], pictures: Pictures) -> list[Section]:
    """The sections of the page, in order."""
    found = [
        summary.section(models, pictures),
        audit.section(models, pictures),
        differences.section(models, pictures),
        seeds.section(models, pictures),
        attacks.section(models, pictures),
        norms.section(models, pictures),
        *measured.sections(models, pictures),
        attacks.noise(models, pictures),
        hardest.section(models, pictures),
        training.section(models, pictures),
    ]
    return [section for section in found if section is not None]


def _place(asked: Request) -> tuple[Path, Pictures]:
    """Where the page goes, and its pictures; those of a page that was named begin with its name."""
    if asked.to is None:
        folder = runs.claim(asked.folder, f"{asked.names}-")
        return folder / PAGE, Pictures(folder=folder)
    with writing(asked.to.parent, asked.to.name):
        asked.to.parent.mkdir(parents=True, exist_ok=True)
    return asked.to, Pictures(folder=asked.to.parent, prefix=f"{asked.to.stem}-")


def _title(models: Sequence[Model]) -> str:
    return f"Robustness of {', '.join(model.label for model in models)}"


def _line(argv: Sequence[str]) -> str:
    return f"python -m lit_robust report {shlex.join(argv)}"
