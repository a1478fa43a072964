"""The audit's verdict, which stands beside every robust accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lit_robust.report.material import Model
from lit_robust.report.page import Markup, element

KINDS = ("pass", "warn", "fail")
_ANCHOR = "#audit"


def verdict(model: Model) -> Markup:
    """The verdict as a word, with the checks that did not pass; `not audited` where there is none.

    Args:
        model: The model whose robust accuracy it stands beside.
    """
    audit = model.audit
    if audit is None:
        return element("span", "not audited", class_="verdict none")
    kind = str(audit.get("verdict", "unknown"))
    wanted = [f for f in findings(audit) if f.get("verdict") == kind] if kind in ("warn", "fail") else []
    named = f" ({', '.join(str(f.get('check')) for f in wanted)})" if wanted else ""
    of = f" at {audit['threat_model']}" if audit.get("threat_model") else ""
    return element("a", f"audit{of}: {kind.upper()}{named}", class_=f"verdict {shade(kind)}", href=_ANCHOR)


def verdicts(models: Sequence[Model]) -> Markup:
    """The verdicts of several models in a line, for below a picture of their robust accuracies."""
    parts = [element("span", f"{model.label}: ", verdict(model)) for model in models]
    return element("p", Markup("; ".join(parts)), class_="note")


def findings(audit: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The audit's findings, one a check."""
    return [each for each in audit.get("findings", []) if isinstance(each, Mapping)]


def shade(kind: str) -> str:
    """The style of a verdict."""
    return kind if kind in KINDS else "none"
