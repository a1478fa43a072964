"""The head of a report: which runs, which tests, when, and how to read the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from lit_robust import __version__, runs
from lit_robust.report.material import Model, Test
from lit_robust.report.page import Content, Markup, command, element, joined, lines, note, paragraph, table

_READING = (
    "“At most” stands before every accuracy under attack: an attack shows images that break a model, and never that no "
    "other image does. Intervals of single accuracies are Wilson's at 95 %, over images; whether two models differ is "
    "told by their paired differences, not by whether intervals overlap. A verdict of the audit says whether the "
    "attacks themselves deserve belief. Radii are in units of the [0, 1] pixel range."
)


def head(models: Sequence[Model], line: str) -> Markup:
    """What the report is about, when it was written and by which command.

    Args:
        models: The models.
        line: The command line.
    """
    when = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    remarks = [remark for model in models for remark in model.remarks]
    return joined(
        [
            paragraph(f"Written {when} by lit_robust {__version__}: ", command(line)),
            table(["model", "what it is", "trained on", "finished tests"], map(_row, models), text=(3,)),
            element("ul", [element("li", each) for each in remarks]) if remarks else None,
            note(_READING),
        ]
    )


def _row(model: Model) -> list[Content]:
    settings = model.config.get("model") or {}
    network = (settings.get("init_args") or {}).get("network")
    data = model.config.get("data") or {}
    return [
        lines(model.label, element("small", str(model.run))),
        f"{_short(settings)} of {_network(network)}",
        _data(data),
        [[", " if i else "", _test(test)] for i, test in enumerate(model.tests)],
    ]


def _data(data: Mapping[str, Any]) -> str:
    if not data.get("class_path"):
        return "unknown data"
    chosen = data.get("init_args") or {}
    shape = [f"{key} {chosen[key]}" for key in ("size", "channels") if chosen.get(key) is not None]
    return ", ".join([runs.data_name(dict(data)), *shape])


def _test(test: Test) -> Markup:
    checkpoint = str(test.about("checkpoint") or "no checkpoint").rpartition("/")[2]
    version = str(test.about("lit_robust") or "unknown")
    by = "" if version == __version__ else f", by lit_robust {version}"
    samples = test.results.get("clean", {}).get("n")
    n = "" if samples is None else f", N = {samples:,}"
    return joined([test.folder.name, " ", element("small", f"({checkpoint}{n}{by})")])


def _short(spec: object) -> str:
    """The class that a part of a config names."""
    path = spec.get("class_path") if isinstance(spec, Mapping) else None
    return str(path).rpartition(".")[2] if path else "unknown"


def _network(spec: object) -> str:
    """A network's class, and those of its stages."""
    arguments = (spec.get("init_args") or {}) if isinstance(spec, Mapping) else {}
    stages = arguments.get("stages") or [arguments[k] for k in ("front_end", "classifier") if k in arguments]
    if isinstance(stages, list) and stages:
        return " → ".join(_network(stage) for stage in stages)
    return _short(spec)
