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
      model.optimizer.lr: [0.001, 0.0001]              # short for an axis of the values of one setting
    seeds: [0, 1, 2]
    test: [own, norms.yaml]                            # `test --run RUN`, and the same with --config norms.yaml

A cell is called by its names on all axes, as `trades-w8-0.001`, and its run of one seed `trades-w8-0.001-seed0`. `own`
stands for the attacks of the run's own config. Without `test`, cells are only trained.

What cells start from is trained once for each seed, and never shared between seeds:

    first:                                             # settings as in the grid; runs of their own, tested as all
      natural: {base: natural_small.yaml}
      adversarial: {base: pgd_at_small.yaml}
    grid:
      code:
        A1N2: {model.code: A1N2, model.first_stage: "{first.adversarial}"}

`{first.adversarial}` becomes the run folder of `adversarial-seed0` in the cells of seed 0, which wait until that run is
trained; it may stand in the settings of the grid. The `overrides` hold for first stages too.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lit_robust import shipped
from lit_robust.errors import UserError
from lit_robust.sweep.cell import OWN, Sweep
from lit_robust.sweep.grid import cells_of, mapping

_KEYS = ("base", "first", "overrides", "grid", "seeds", "test")


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
        content = mapping(_read(path, _UniqueKeys), "a sweep file")
        _refuse_unknown(content)
        cells = cells_of(content, path.stem, None if command_line is None else tuple(command_line))
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
