"""Sweep files: a base, a grid of named settings, and seeds.

    base: [pgd_at_small.yaml]                          # configs laid over each other, as `fit --config`
    overrides: {trainer.max_epochs: 5}                 # for every cell, as on the command line: --trainer.max_epochs=5
    grid:                                              # the product of its axes; without a grid there is one cell
      training:
        pgd: {}
        trades: {config: trades_part.yaml}             # one more config, laid over the base
        natural: {base: natural_small.yaml}            # another system in place of the base
      width:
        w64: {}
        w8: {model.network.width: 8, test: own}        # overrides by their dotted keys; other evaluations
    seeds: [0, 1, 2]
    test: [own, norms.yaml]                            # `test --run RUN`, and the same with --config norms.yaml

A cell is called by its names on all axes, as `trades-w8`, and its run of one seed `trades-w8-seed0`. `own` stands for
the attacks of the run's own config. Without `test`, cells are only trained.
"""

from __future__ import annotations

import difflib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from lit_robust import shipped
from lit_robust.errors import UserError

OWN = "own"
_KEYS = ("base", "overrides", "grid", "seeds", "test")
_OF_A_SETTING = ("base", "config", "test")  # the keys of a setting that are no overrides
_NO_OVERRIDE = {
    "seed_everything": "seeds are listed under `seeds`",
    "config": "configs are listed under `base`, or as `config` of a setting in the grid",
    "name": "a sweep names its runs",
    "runs": "the folder is --runs of the sweep's command line",
    "resume": "a sweep resumes its runs by itself",
    "run": "to start from a run's weights, name it in a config: the network FromRun",
    "ckpt_path": "to start from a run's weights, name it in a config: the network FromRun",
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a sweep.

    Attributes:
        group: What it has in common with the other seeds: its names on all axes.
        seed: Its seed.
        choices: Its name on each axis.
        configs: Names of its configs, each laid over those before it.
        overrides: Settings by dotted key, over all configs.
        tests: Names of the configs that it is tested with, by the title that `test` gives to its folder.
        command_line: Settings that go over everything else, as `--key=value`; None where they are not known, which
            only looks at a sweep.
    """

    group: str
    seed: int
    choices: Mapping[str, str]
    configs: tuple[str, ...]
    overrides: Mapping[str, Any]
    tests: Mapping[str, str]
    command_line: tuple[str, ...] | None = None

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.group}-seed{self.seed}"

    @property
    def fit_options(self) -> list[str]:
        """What it says to `fit`."""
        configs = [f"--config={name}" for name in self.configs]
        overrides = [_option(key, value) for key, value in self.overrides.items()]
        return [*configs, *overrides, *(self.command_line or ()), f"--seed_everything={self.seed}"]

    def test_options(self, title: str) -> list[str]:
        """What it says to `test` beside the run, whose config has its overrides."""
        config = self.tests[title]
        return [*([] if config == OWN else [f"--config={config}"]), *(self.command_line or ())]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep file.

    Attributes:
        name: The file's name, and its folder's.
        cells: All runs, the seeds of a cell one after the other.
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


class _UniqueKeys(yaml.SafeLoader):
    """A loader that refuses a key that stands twice, where YAML silently takes the later one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                raise UserError(f"{name!r} stands twice (line {key.start_mark.line + 1})")
            seen.add(name)
        return super().construct_mapping(node, deep)


def load(path: Path, command_line: Sequence[str] | None = None) -> Sweep:
    """Reads a sweep file.

    Args:
        path: The file.
        command_line: Settings for every cell over those of the file, as `--key=value`; None if they are not known.

    Raises:
        UserError: If it is no sweep, or names configs that are not there.
    """
    try:
        content = _mapping(_read(path, _UniqueKeys), "a sweep file")
        _refuse_unknown(content)
        cells = _cells(content, path.stem, None if command_line is None else tuple(command_line))
        tests = (name for cell in cells for name in cell.tests.values() if name != OWN)
        names = dict.fromkeys([*(name for cell in cells for name in cell.configs), *tests])
        contents = {name: _read(shipped.find(name), yaml.SafeLoader) for name in names}
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return Sweep(name=path.stem, cells=cells, contents=contents)


def _read(path: Path, loader: type[yaml.SafeLoader]) -> Any:  # noqa: ANN401 - any YAML
    try:
        return yaml.load(path.read_text(), loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no YAML: {' '.join(str(error).split())}") from error


def _refuse_unknown(content: Mapping[str, Any]) -> None:
    for key in content:
        if key not in _KEYS:
            near = difflib.get_close_matches(str(key), _KEYS, n=2, cutoff=0.5)
            advice = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(_KEYS)}"
            raise UserError(f"a sweep has no key {key!r}; {advice}")
    missing = [key for key in ("base", "seeds") if content.get(key) in (None, [], "")]
    if missing:
        raise UserError(f"a sweep needs `{missing[0]}`, as in {'base: quickstart.yaml, seeds: [0, 1, 2]'}")


def _cells(content: Mapping[str, Any], name: str, command_line: tuple[str, ...] | None) -> tuple[Cell, ...]:
    axes = {
        _name(axis): {_name(setting): _mapping(value, f"{axis}.{setting}") for setting, value in settings.items()}
        for axis, settings in _axes(content.get("grid"))
    }
    overrides = _overrides(_mapping(content.get("overrides"), "`overrides`"))
    _refuse_varied(command_line or (), axes)
    cells: list[Cell] = []
    for choice in itertools.product(*axes.values()):
        choices = dict(zip(axes, choice, strict=True))
        chosen = [axes[axis][setting] for axis, setting in choices.items()]
        own = _joined(choices, chosen)
        kept = {key: value for key, value in overrides.items() if key not in own}  # what comes later goes over it
        more = [config for setting in chosen for config in _names(setting.get("config"), "config")]
        cell = Cell(
            group="-".join(choice) or _name(name),
            seed=0,
            choices=choices,
            configs=(*_names(own.get("base", content["base"]), "base"), *more),
            overrides={**kept, **{key: value for key, value in own.items() if key not in _OF_A_SETTING}},
            tests=_tests(_names(own.get("test", content.get("test")), "test")),
            command_line=command_line,
        )
        cells += [replace(cell, seed=seed) for seed in _seeds(content["seeds"])]
    names = [cell.name for cell in cells]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two cells are called {name!r}; rename a setting in the grid")
    return tuple(cells)


def _axes(grid: Any) -> list[tuple[str, dict[str, Any]]]:  # noqa: ANN401 - what the file says
    axes = _mapping(grid, "`grid`")
    for axis, settings in axes.items():
        if not isinstance(settings, dict) or not settings:
            raise UserError(f"the axis {axis!r} needs named settings, as in {axis}: {{small: {{...}}, large: {{...}}}}")
    return list(axes.items())


def _joined(choices: Mapping[str, str], chosen: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The settings of all axes together, which may not contradict each other."""
    joined: dict[str, Any] = {}
    for (axis, name), setting in zip(choices.items(), chosen, strict=True):
        for key in setting:
            if key in joined and key != "config":
                raise UserError(f"{axis}.{name} sets {key}, and so does another axis of the same cell")
        joined |= {**_overrides({k: v for k, v in setting.items() if k not in _OF_A_SETTING}), **setting}
    return joined


def _overrides(settings: dict[str, Any]) -> dict[str, Any]:
    for key in settings:
        if key in _NO_OVERRIDE:
            raise UserError(f"{key} cannot be set here: {_NO_OVERRIDE[key]}")
    return settings


def _refuse_varied(command_line: Sequence[str], axes: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """Refuses a setting on the command line that would make cells of different names the same."""
    for option in command_line:
        given = option.removeprefix("--").partition("=")[0]
        if given in _NO_OVERRIDE:
            raise UserError(f"--{given} cannot be given to a sweep: {_NO_OVERRIDE[given]}")
        for axis, settings in axes.items():
            if any(key == given or key.startswith(f"{given}.") for setting in settings.values() for key in setting):
                raise UserError(f"--{given} would override what the axis {axis!r} varies")


def _tests(names: Sequence[str]) -> dict[str, str]:
    tests: dict[str, str] = {}
    for name in names:
        title = "test" if name == OWN else Path(name).stem
        if title in tests:
            raise UserError(f"two tests are called {title!r}: {tests[title]} and {name}")
        tests[title] = name
    return tests


def _seeds(seeds: Any) -> list[int]:  # noqa: ANN401 - what the file says
    listed = seeds if isinstance(seeds, list) else [seeds]
    if not all(type(seed) is int and seed >= 0 for seed in listed):
        raise UserError(f"expected seeds to be whole numbers from 0 on, as in [0, 1, 2], got {seeds}")
    if len(set(listed)) < len(listed):
        raise UserError(f"a seed stands twice in {seeds}")
    return listed


def _names(value: Any, key: str) -> list[str]:  # noqa: ANN401 - what the file says
    names = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(name, str) for name in names):
        raise UserError(f"expected `{key}` to be a config or a list of configs, got {value}")
    return names


def _mapping(value: Any, what: str) -> dict[str, Any]:  # noqa: ANN401 - what the file says
    if value is not None and not isinstance(value, dict):
        raise UserError(f"expected {what} to be a mapping, got {value!r}")
    return {str(key): item for key, item in (value or {}).items()}


def _name(name: object) -> str:
    text = str(name)
    if isinstance(name, bool) or not re.fullmatch(r"\w[\w.+=-]*", text):
        raise UserError(
            f"{text!r} cannot be a name in the grid: names become folders, of letters, digits and _ . + = -"
            + (" (YAML reads yes, no, on and off as true and false: quote them)" if isinstance(name, bool) else "")
        )
    return text


def _option(key: str, value: Any) -> str:  # noqa: ANN401 - any setting
    return f"--{key}={value if isinstance(value, str) else json.dumps(value, default=str)}"
