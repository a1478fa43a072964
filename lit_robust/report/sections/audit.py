"""The audit of each model: its findings, why they matter, what to do next, and its picture."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from lit_robust.report.credibility import findings, shade, verdict
from lit_robust.report.material import AUDIT, Model
from lit_robust.report.page import Content, Markup, Section, command, element, joined, note, table
from lit_robust.report.pictures import Pictures

_HEADINGS = ("check", "verdict", "figure", "why it matters", "what to do next")


def section(models: Sequence[Model], pictures: Pictures) -> Section:
    """A table of findings for each model that was audited."""
    title = "Audit: are the figures credible?"
    having = [model for model in models if model.audit is not None]
    without = [model for model in models if model.audit is None]
    lines = [element("li", f"{model.label}: ", command(audit_command(model))) for model in without]
    if not having:
        body = joined(["no model was audited; ", command(audit_command(models[0]))])
        return Section(anchor="audit", title=title, body=body, empty=True)
    parts: list[Content] = [_model(model, pictures) for model in having]
    if lines:
        parts += [note("Not audited:"), element("ul", lines)]
    return Section(anchor="audit", title=title, body=joined(parts))


def audit_command(model: Model) -> str:
    """The command that audits a model."""
    return f"python -m lit_robust audit --run {shlex.quote(str(model.run))}"


def _model(model: Model, pictures: Pictures) -> Markup:
    test = model.measured(AUDIT)[-1]
    rows = [_row(finding) for finding in findings(model.audit or {})]
    picture = test.folder / f"{AUDIT}.png"
    described = f"Audit of {model.label}: " + "; ".join(
        f"{each.get('check')} {each.get('verdict')}, {each.get('figure')}" for each in findings(model.audit or {})
    )
    samples = ((model.audit or {}).get("protocol") or {}).get("samples")
    n = "" if samples is None else f", N = {samples:,}"
    return joined(
        [
            element("h3", f"{model.label}: ", verdict(model)),
            note(f"{test.folder.name} on {test.images}{n}"),
            table(_HEADINGS, rows, text=(2, 3, 4)) if rows else None,
            pictures.taken(AUDIT, picture.read_bytes(), described, f"audit of {model.label}")
            if picture.is_file()
            else None,
        ]
    )


def _row(finding: Mapping[str, Any]) -> list[Content]:
    kind = str(finding.get("verdict", "unknown"))
    return [
        str(finding.get("check")),
        element("span", kind.upper(), class_=f"verdict {shade(kind)}"),
        str(finding.get("figure") or ""),
        str(finding.get("why") or ""),
        str(finding.get("next") or "") if kind in ("warn", "fail") else "",
    ]
