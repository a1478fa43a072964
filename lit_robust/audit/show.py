"""The table of an audit's verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

_STYLES = {"pass": "green", "warn": "yellow", "fail": "bold red", "skipped": "dim"}


def verdict_table(content: Mapping[str, Any]) -> Table:
    """The checks with their verdicts and figures, and for those that did not pass why it matters and what to do next.

    Args:
        content: Content of `audit.json`.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"audit, {content['threat_model']}", title_justify="left", show_lines=True)
    for heading in ("check", "verdict", "figure", "why it matters, and what to do next"):
        table.add_column(heading, overflow="fold")
    for finding in content["findings"]:
        verdict = finding["verdict"]
        told = f"{finding['why']}\n→ {finding['next']}" if verdict in ("warn", "fail") else ""
        table.add_row(finding["check"], Text(verdict, style=_STYLES[verdict]), finding["figure"], told)
    return table
