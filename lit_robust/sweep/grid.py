"""From the content of a sweep file to its cells: first stages, and the product of the axes, each for every seed."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lit_robust.errors import UserError
from lit_robust.sweep.cell import OWN, Cell, first_stages

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
_Settings = Mapping[str, Mapping[str, Any]]  # settings by name


def cells_of(content: Mapping[str, Any], name: str, command_line: tuple[str, ...] | None) -> tuple[Cell, ...]:
    """The cells of a sweep: its first stages, then its grid, the seeds of a cell one after the other.

    Args:
        content: What the file says.
        name: Name of the file, which a cell without axes is called by.
        command_line: As for `Cell`.

    Raises:
        UserError: For a mistake in the file, or settings on the command line that an axis varies.
    """
    axes = {_name(axis): _settings(settings, axis) for axis, settings in _axes(content.get("grid"))}
    first = _settings(mapping(content.get("first"), "`first`"), "first")
    overrides = _overrides(mapping(content.get("overrides"), "`overrides`"))
    _refuse_varied(command_line or (), axes)
    common = (content, overrides, command_line)
    groups = [_cell(group, {}, {group: setting}, *common, first=True) for group, setting in first.items()]
    for choice in itertools.product(*axes.values()):
        choices = dict(zip(axes, choice, strict=True))
        chosen = {f"{axis}.{setting}": axes[axis][setting] for axis, setting in choices.items()}
        groups.append(_cell("-".join(choice) or _name(name), choices, chosen, *common))
    _refuse_unknown_stages(groups, first)
    cells = [replace(group, seed=seed) for group in groups for seed in _seeds(content["seeds"])]
    names = [cell.name for cell in cells]
    for cell_name in names:
        if names.count(cell_name) > 1:
            raise UserError(f"two cells are called {cell_name!r}; rename a setting in the grid or a first stage")
    return tuple(cells)


def _cell(
    group: str,
    choices: Mapping[str, str],
    chosen: _Settings,
    content: Mapping[str, Any],
    overrides: Mapping[str, Any],
    command_line: tuple[str, ...] | None,
    *,
    first: bool = False,
) -> Cell:
    """A cell without its seed, from the settings chosen on each axis, by what they are to be called in a message."""
    own = _joined(chosen)
    kept = {key: value for key, value in overrides.items() if key not in own}  # what comes later goes over it
    more = [config for setting in chosen.values() for config in _names(setting.get("config"), "config")]
    return Cell(
        group=group,
        seed=0,
        choices=choices,
        configs=(*_names(own.get("base", content["base"]), "base"), *more),
        overrides={**kept, **{key: value for key, value in own.items() if key not in _OF_A_SETTING}},
        tests=_tests(_names(own.get("test", content.get("test")), "test")),
        command_line=command_line,
        first=first,
    )


def _settings(settings: Mapping[str, Any], of: str) -> dict[str, dict[str, Any]]:
    return {_name(setting): mapping(value, f"{of}.{setting}") for setting, value in settings.items()}


def _axes(grid: Any) -> list[tuple[str, dict[str, Any]]]:  # noqa: ANN401 - what the file says
    axes = mapping(grid, "`grid`")
    for axis, settings in axes.items():
        if isinstance(settings, list) and "." in axis:
            axes[axis] = _values(axis, settings)
        elif not isinstance(settings, dict) or not settings:
            raise UserError(
                f"the axis {axis!r} needs named settings, as in {axis}: {{small: {{...}}, large: {{...}}}}, or, called "
                "by a dotted key, the values of that setting, as in model.optimizer.lr: [0.1, 0.01]"
            )
    return list(axes.items())


def _values(axis: str, values: list[Any]) -> dict[str, Any]:
    """The named settings that a list of values of one setting is short for."""
    names = [_name(value) for value in values]
    twice = [name for name in names if names.count(name) > 1]
    if twice or not values:
        raise UserError(f"the axis {axis!r} " + (f"has {twice[0]} twice" if twice else "has no values"))
    return {name: {axis: value} for name, value in zip(names, values, strict=True)}


def _joined(chosen: _Settings) -> dict[str, Any]:
    """The settings of all axes together, which may not contradict each other."""
    joined: dict[str, Any] = {}
    for name, setting in chosen.items():
        for key in setting:
            if key in joined and key != "config":
                raise UserError(f"{name} sets {key}, and so does another axis of the same cell")
        joined |= {**_overrides({k: v for k, v in setting.items() if k not in _OF_A_SETTING}), **setting}
    return joined


def _overrides(settings: dict[str, Any]) -> dict[str, Any]:
    for key in settings:
        if key in _NO_OVERRIDE:
            raise UserError(f"{key} cannot be set here: {_NO_OVERRIDE[key]}")
    return settings


def _refuse_varied(command_line: Sequence[str], axes: Mapping[str, _Settings]) -> None:
    """Refuses a setting on the command line that would make cells of different names the same."""
    for option in command_line:
        given = option.removeprefix("--").partition("=")[0]
        if given in _NO_OVERRIDE:
            raise UserError(f"--{given} cannot be given to a sweep: {_NO_OVERRIDE[given]}")
        for axis, settings in axes.items():
            if any(key == given or key.startswith(f"{given}.") for setting in settings.values() for key in setting):
                raise UserError(f"--{given} would override what the axis {axis!r} varies")


def _refuse_unknown_stages(groups: Sequence[Cell], first: _Settings) -> None:
    for cell in groups:
        for stage in first_stages(cell.overrides):
            if cell.first:
                raise UserError(f"first.{cell.group} names {{first.{stage}}}: a first stage starts from nothing")
            if stage not in first:
                known = f"there are {', '.join(first)}" if first else "the file has no section `first`"
                raise UserError(f"{cell.group} names {{first.{stage}}}, which is not a first stage: {known}")


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


def mapping(value: Any, what: str) -> dict[str, Any]:  # noqa: ANN401 - what the file says
    """A mapping with its keys as text; empty for nothing.

    Raises:
        UserError: If it is none.
    """
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
