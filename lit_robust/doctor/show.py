"""The doctor's table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lit_robust.doctor.diagnosis import Diagnosis

_STYLES = {"ok": "green", "warning": "yellow", "error": "bold red", "skipped": "dim"}


def table(diagnoses: Sequence[Diagnosis]) -> Table:
    """A row a diagnosis: check, verdict, what was found, and how to mend it.

    Args:
        diagnoses: What the checks said.
    """
    shown = Table(title="doctor", title_justify="left", show_lines=False, expand=False)
    shown.add_column("check", no_wrap=True)
    shown.add_column("verdict")
    shown.add_column("found", ratio=3)
    shown.add_column("how to mend it", ratio=2)
    for each in diagnoses:
        style = _STYLES[each.verdict]
        verdict = f"[{style}]{each.verdict}[/]"
        shown.add_row(each.check, verdict, escape(each.found), escape(each.mend), style="dim" if style == "dim" else "")
    return shown


def show(diagnoses: Sequence[Diagnosis]) -> None:
    """Prints the table and how many errors and warnings there are.

    Args:
        diagnoses: What the checks said.
    """
    console = Console(width=140)
    console.print(table(diagnoses))
    counts = {kind: sum(each.verdict == kind for each in diagnoses) for kind in ("error", "warning")}
    said = ", ".join(f"{n or 'no'} {kind}{'' if n == 1 else 's'}" for kind, n in counts.items())
    console.print(f"{said} in {len(diagnoses)} checks", highlight=False)
