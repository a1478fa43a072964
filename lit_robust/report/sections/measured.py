"""What measurements drew and found: each with all models in one figure that were measured alike."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pydoc import locate
from typing import TYPE_CHECKING, Any

from lit_robust.callbacks.measurement import TABLE, Measurement
from lit_robust.report.credibility import verdicts
from lit_robust.report.material import AUDIT, Model, Test
from lit_robust.report.page import Markup, Section, command, details, joined, note, table
from lit_robust.report.pictures import Pictures
from lit_robust.report.wording import attack

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A section about some measurements.

    Attributes:
        anchor: Its name in links.
        title: Its heading.
        names: Names of the measurements.
        config: The shipped config that measures them.
        robust: Whether they are accuracies under attack, beside which the audit's verdict stands.
        why: What the figures say.
    """

    anchor: str
    title: str
    names: tuple[str, ...]
    config: str
    robust: bool = False
    why: str = ""


_CURVE = "Accuracy has to fall to about 0 within a large radius; an attack under which it does not is too weak."
_PROVED = "Images that are right and proved to stay so: a lower bound, which holds whatever an attack finds."
_INSIDE = "Noise on the image, measured at the input of each convolution; higher is cleaner."
_PSR = "The perturbation relative to the signal at each convolution; lower is calmer."
_SPARSE = "Share of entries that are zero, and Hoyer's measure where it was taken."
KINDS = (
    Kind(
        anchor="curves",
        title="Security curves",
        names=("eps_curve",),
        config="polarizing_curve.yaml",
        robust=True,
        why=_CURVE,
    ),
    Kind(
        anchor="certificates", title="Certified accuracy", names=("certified",), config="certificate.yaml", why=_PROVED
    ),
    Kind(anchor="corruptions", title="Corruptions", names=("corruptions",), config="corruptions.yaml"),
    Kind(anchor="gaussian", title="Accuracy under Gaussian noise", names=("noise",), config="noise.yaml"),
    Kind(anchor="snr", title="Signal-to-noise ratio", names=("snr",), config="noise.yaml", why=_INSIDE),
    Kind(anchor="psr", title="Perturbation-to-signal ratio", names=("psr",), config="psr.yaml", why=_PSR),
    Kind(anchor="sparsity", title="Sparsity", names=("sparsity",), config="noise.yaml"),
    Kind(anchor="gradcam", title="Grad-CAM", names=("gradcam",), config="gradcam.yaml"),
)
_NAMED = {AUDIT, *(name for kind in KINDS for name in kind.names)}


def sections(models: Sequence[Model], pictures: Pictures) -> list[Section]:
    """A section for each of `KINDS`, and one for all other measurements."""
    found = [_section(kind, models, pictures) for kind in KINDS]
    names = dict.fromkeys(n for model in models for test in model.tests for n in test.measurements if n not in _NAMED)
    if names:
        other = Kind(anchor="measurements", title="Further measurements", names=tuple(names), config="")
        found.append(_section(other, models, pictures))
    return found


def _section(kind: Kind, models: Sequence[Model], pictures: Pictures) -> Section:
    groups = [(name, group) for name in kind.names for group in _groups(name, models)]
    without = [model for model in models if not any(model.measured(name) for name in kind.names)]
    if not groups:
        body = command(models[0].command(kind.config))
        return Section(anchor=kind.anchor, title=kind.title, body=body, empty=True)
    parts = [_group(kind, name, group, pictures) for name, group in groups]
    if without and kind.config:
        labels = ", ".join(model.label for model in without)
        parts.append(note(f"Not measured for {labels}: ", command(without[0].command(kind.config))))
    body = joined([note(kind.why) if kind.why else None, *parts])
    return Section(anchor=kind.anchor, title=kind.title, body=body)


def _groups(name: str, models: Sequence[Model]) -> list[list[tuple[Model, Test]]]:
    """Models that were measured alike: with the same settings on the same images."""
    found: dict[tuple[str, ...], list[tuple[Model, Test]]] = {}
    for model in models:
        for test in model.measured(name):
            group = found.setdefault(_settings(name, test), [])
            if all(model is not other for other, _ in group):
                group.append((model, test))
    return list(found.values())


def _settings(name: str, test: Test) -> tuple[str, ...]:
    """What has to agree before two measurements share a figure."""
    content = test.measurements[name]
    path = str(content.get("measurement"))
    written = (test.config.get("trainer") or {}).get("callbacks") or []
    entries = written if isinstance(written, list) else [written]
    own = [each.get("init_args") for each in entries if isinstance(each, Mapping) and _same(each, path)]
    # Without settings on disk, those tests agree that have one title, and the threat is told by its norm at least.
    return (
        path,
        test.images,
        str(test.about("images")),
        str(content.get("norm")),
        json.dumps(own, sort_keys=True, default=str) if own else test.title,
    )


def _same(entry: Mapping[str, Any], path: str) -> bool:
    return str(entry.get("class_path")).rpartition(".")[2] == path.rpartition(".")[2]


def _group(kind: Kind, name: str, group: Sequence[tuple[Model, Test]], pictures: Pictures) -> Markup:
    results = {model.label: test.measurements[name] for model, test in group}
    models = [model for model, _ in group]
    tests = ", ".join(f"{model.label} ({test.folder.name})" for model, test in group)
    how = next((content["attack"] for content in results.values() if content.get("attack")), None)
    under = f", under {attack(how)}" if isinstance(how, Mapping) else ""
    caption = f"{name} of {tests}, on {group[0][1].images}{under}"
    tables = {label: content.get(TABLE) or {} for label, content in results.items()}
    description = f"{kind.title} of {', '.join(results)}. {_told(tables)}"
    return joined(
        [
            _picture(name, group, results, pictures, description, caption),
            verdicts(models) if kind.robust else None,
            _numbers(tables),
        ]
    )


def _picture(
    name: str,
    group: Sequence[tuple[Model, Test]],
    results: Mapping[str, Mapping[str, Any]],
    pictures: Pictures,
    description: str,
    caption: str,
) -> Markup:
    """The figure of all models; of one alone the test has drawn it already."""
    there = group[0][1].folder / f"{name}.png"
    if len(group) == 1 and there.is_file():
        return pictures.taken(name, there.read_bytes(), description, caption)
    try:
        figure = drawn(results)
    except (LookupError, TypeError, ValueError) as error:
        return note(f"{caption}: not drawn, since the results are not as this version writes them ({error!r}).")
    if figure is None:
        kind = next(iter(results.values())).get("measurement")
        return note(f"{caption}: not drawn, since {kind!r} is not found or is no Measurement.")
    return pictures.drawn(name, figure, description, caption)


def drawn(results: Mapping[str, Mapping[str, Any]]) -> Figure | None:
    """What a measurement's class draws of several models' results; None if the class is not found."""
    kind = locate(str(next(iter(results.values())).get("measurement")))
    if not (isinstance(kind, type) and issubclass(kind, Measurement)):
        return None
    return kind.draw(results)


def _told(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """The figures in words, as long as they are few."""
    return "; ".join(
        f"{label}: {', '.join(f'{key} {_shown(value)}' for key, value in table_.items())}"
        for label, table_ in tables.items()
        if table_
    )


def _numbers(tables: Mapping[str, Mapping[str, Any]]) -> Markup | None:
    """The figures as a table, on demand."""
    keys = list(dict.fromkeys(key for table_ in tables.values() for key in table_))
    if not keys:
        return None
    rows = [[key, *(_shown(table_.get(key)) for table_ in tables.values())] for key in keys]
    return details("figures", table(["", *tables], rows))


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "" if value is None else str(value)
