"""Finds what a sweep's configs and overrides misspell, with the parser of `fit` and nothing of its work."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from lit_robust import command_line
from lit_robust.errors import UserError
from lit_robust.lightning_cli import RobustCLI
from lit_robust.sweep.cell import OWN, Cell, Sweep


class ParserOnly(RobustCLI):
    """The command line of `fit` up to where work starts; `config_dump` is the config that a run would save."""

    config_dump: dict[str, Any]

    def _set_seed(self) -> None:
        pass

    def instantiate_classes(self) -> None:
        """Only notes the config."""
        self.config_dump = self._plain(self.config[self.line.subcommand])

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def refuse_mistakes(sweep: Sweep, cells: Iterable[Cell]) -> None:
    """Parses the config of each cell, and its evaluations laid over it.

    What cannot differ is parsed once: the seeds of a cell, each value of a setting that an axis lists, and a test
    config that says nothing but `evaluation`.

    Args:
        sweep: The sweep.
        cells: Those of its cells that are to be run.

    Raises:
        UserError: Naming the cell, the key and the nearest valid ones.
    """
    parsed: set[str] = set()
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "config.yaml"
        for cell in _different(cells):
            cell = cell.starting_from({name: Path(name) for name in cell.needs})
            saved.write_text(yaml.safe_dump(_parsed(cell.group, cell.fit_options), sort_keys=False))
            for title, config in cell.tests.items():
                if config != OWN and not (config in parsed and set(sweep.contents[config] or ()) <= {"evaluation"}):
                    parsed.add(config)
                    _parsed(f"{cell.group}, tested with {config}", [f"--config={saved}", *cell.test_options(title)])


def _different(cells: Iterable[Cell]) -> Iterator[Cell]:
    """Cells that say something new, one of each group: other named settings, or a value not seen on a listed axis."""
    seen: set[object] = set()
    for cell in {cell.group: cell for cell in cells}.values():
        listed = {axis: name for axis, name in cell.choices.items() if axis in cell.overrides}
        named = tuple((axis, name) for axis, name in cell.choices.items() if axis not in listed)
        new = {(cell.first and cell.group, cell.configs, named), *listed.items()} - seen
        seen |= new
        if new:
            yield cell


def _parsed(what: str, options: Sequence[str]) -> dict[str, Any]:
    try:
        return ParserOnly(command_line.read("fit", options)).config_dump
    except UserError as error:
        raise UserError(f"{what}: {error}") from error
