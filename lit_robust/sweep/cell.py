"""A sweep and its cells: what each run of a grid says to `fit` and to `test`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

OWN = "own"
_FIRST = re.compile(r"\{first\.([^{}]+)\}")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a sweep.

    Attributes:
        group: What it has in common with the other seeds: its names on all axes.
        seed: Its seed.
        choices: Its name on each axis; none for a first stage.
        configs: Names of its configs, each laid over those before it.
        overrides: Settings by dotted key, over all configs.
        tests: Names of the configs that it is tested with, by the title that `test` gives to its folder.
        command_line: Settings that go over everything else, as `--key=value`; None where they are not known, which
            only looks at a sweep.
        first: Whether it is a first stage, which others of its seed start from.
    """

    group: str
    seed: int
    choices: Mapping[str, str]
    configs: tuple[str, ...]
    overrides: Mapping[str, Any]
    tests: Mapping[str, str]
    command_line: tuple[str, ...] | None = None
    first: bool = False

    @property
    def name(self) -> str:
        """Name of its folder."""
        return named(self.group, self.seed)

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the cells that it starts from: first stages of its own seed."""
        return tuple(named(group, self.seed) for group in first_stages(self.overrides))

    @property
    def fit_options(self) -> list[str]:
        """What it says to `fit`; first stages stand in it as the file has them, see `starting_from`."""
        configs = [f"--config={name}" for name in self.configs]
        overrides = [_option(key, value) for key, value in self.overrides.items()]
        return [*configs, *overrides, *(self.command_line or ()), f"--seed_everything={self.seed}"]

    def test_options(self, title: str) -> list[str]:
        """What it says to `test` beside the run, whose config has its overrides."""
        config = self.tests[title]
        return [*([] if config == OWN else [f"--config={config}"]), *(self.command_line or ())]

    def starting_from(self, runs: Mapping[str, Path]) -> Cell:
        """The same cell with the run folders of its first stages in its settings.

        Args:
            runs: Run folder by the name of the cell, for all that it needs.
        """
        return replace(self, overrides=_filled(dict(self.overrides), self.seed, runs))


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep file.

    Attributes:
        name: The file's name, and its folder's.
        cells: All runs: first stages, then the cells of the grid, the seeds of a cell one after the other.
        contents: What the configs say, by the names that the file gives them.
    """

    name: str
    cells: tuple[Cell, ...]
    contents: Mapping[str, Any]

    def settings(self, cell: Cell) -> dict[str, Any]:
        """Everything that decides a cell's training, as plain JSON."""
        settings: dict[str, Any] = {
            "configs": list(cell.configs),
            "contents": {name: self.contents[name] for name in cell.configs},
            "overrides": dict(cell.overrides),
            "seed": cell.seed,
        }
        if cell.command_line is not None:
            settings["command_line"] = dict(option.removeprefix("--").split("=", 1) for option in cell.command_line)
        plain: dict[str, Any] = json.loads(json.dumps(settings, default=str))
        return plain

    def test_settings(self, cell: Cell, title: str) -> Any:  # noqa: ANN401 - a config
        """What one of a cell's test configs says, as plain JSON; None for the run's own."""
        return json.loads(json.dumps(self.contents.get(cell.tests[title]), default=str))

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes of the grid."""
        return tuple(dict.fromkeys(axis for cell in self.cells for axis in cell.choices))


def named(group: str, seed: int) -> str:
    """Name of the cell of a group and a seed."""
    return f"{group}-seed{seed}"


def first_stages(node: Any) -> list[str]:  # noqa: ANN401 - settings
    """Groups of the first stages that settings name as `{first.GROUP}`, each once."""
    return list(dict.fromkeys(group for text in _texts(node) for group in _FIRST.findall(text)))


def _texts(node: Any) -> Iterator[str]:  # noqa: ANN401 - settings
    if isinstance(node, str):
        yield node
    elif isinstance(node, Mapping | list):
        for item in node.values() if isinstance(node, Mapping) else node:
            yield from _texts(item)


def _filled(node: Any, seed: int, runs: Mapping[str, Path]) -> Any:  # noqa: ANN401 - settings
    if isinstance(node, str):
        return _FIRST.sub(lambda match: str(runs[named(match[1], seed)]), node)
    if isinstance(node, dict):
        return {key: _filled(item, seed, runs) for key, item in node.items()}
    return [_filled(item, seed, runs) for item in node] if isinstance(node, list) else node


def _option(key: str, value: Any) -> str:  # noqa: ANN401 - any setting
    return f"--{key}={value if isinstance(value, str) else json.dumps(value, default=str)}"
