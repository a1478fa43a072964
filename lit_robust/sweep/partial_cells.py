"""What the cells of a sweep over partial training vary: code, cutoff or single layer, and where these lie."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lit_robust.layer_order import layer_order, named_layer, position
from lit_robust.nn import FromRun
from lit_robust.sweep.cell import Cell, Sweep, first_stages

CUTOFF, LAYER = "cutoff", "layer"
_CODE = "code"


@dataclass(frozen=True, kw_only=True)
class PartialCells:
    """Cells of one code, which differ in where the network is cut, or in the layer that is retrained.

    Attributes:
        label: What a figure calls them: the code, with the names on further axes.
        code: Their code, such as A1N2.
        kind: `cutoff` or `layer`.
        groups: The cells' groups by cutoff or layer, as the file calls it.
        stages: Groups of the first stages by how they are trained, A or N, as far as the sweep has them.
        rest: Names on the axes that decide neither the code nor the place.
    """

    label: str
    code: str
    kind: str
    groups: Mapping[str, str]
    stages: Mapping[str, str]
    rest: tuple[str, ...]

    @property
    def frozen(self) -> str:
        """How the part that is kept was trained, A or N."""
        return self.code[self.code.index("1") - 1]

    @property
    def control(self) -> str:
        """The code that retrains the same part as the other part was trained."""
        return self.code.replace("A", self.frozen).replace("N", self.frozen)

    @property
    def mixed(self) -> bool:
        """Whether one part is adversarial and one natural."""
        return self.code != self.control


@dataclass(frozen=True)
class Places:
    """Where cutoffs and layers lie.

    Attributes:
        layers: Names of all layers, in their linear order.
        of: Number of layers before each cutoff or layer, by kind and name.
    """

    layers: tuple[str, ...]
    of: Mapping[tuple[str, str], int]


def partial_cells(sweep: Sweep) -> list[PartialCells]:
    """The cells of a sweep over partial training, by code; none if it is no such sweep."""
    cells = {cell.group: cell for cell in sweep.cells if _setting(cell, _CODE) is not None}.values()
    stages = {
        str(_setting(cell, _CODE))[str(_setting(cell, _CODE)).index("1") - 1]: group
        for cell in cells
        for group in first_stages(cell.overrides)[:1]
    }
    found: dict[tuple[str, str, tuple[str, ...]], dict[str, str]] = {}
    labels: dict[tuple[str, str, tuple[str, ...]], str] = {}
    for kind in (CUTOFF, LAYER):
        placed = [cell for cell in cells if _setting(cell, kind) is not None]
        decided = {*_axes(placed, kind), *_axes(placed, _CODE)}
        more = {axis for axis in sweep.axes if len({cell.choices[axis] for cell in placed}) > 1} - decided
        for cell in placed:
            rest = tuple(name for axis, name in cell.choices.items() if axis in more)
            key = (kind, str(_setting(cell, _CODE)), rest)
            found.setdefault(key, {})[str(_setting(cell, kind))] = cell.group
            labels[key] = ", ".join((key[1], *rest))
    return [
        PartialCells(label=labels[key], code=key[1], kind=key[0], groups=groups, stages=stages, rest=key[2])
        for key, groups in found.items()
    ]


def places(run: Path, cells: Iterable[PartialCells]) -> Places:
    """Where the cutoffs and layers of cells lie in the network of a run.

    Args:
        run: Run folder.
        cells: The cells.

    Raises:
        UserError: If the run has no checkpoint, or its network no such layer.
    """
    network = FromRun(str(run)).network
    layers = layer_order(network)
    of = {
        (part.kind, name): position(network, name) if part.kind == CUTOFF else layers.index(named_layer(network, name))
        for part in cells
        for name in part.groups
    }
    return Places(tuple(layers), of)


def _setting(cell: Cell, name: str) -> object | None:
    """A setting of the regime that a cell overrides; None also where it is set to null."""
    return next(
        (cell.overrides[key] for key in (f"model.{name}", f"model.init_args.{name}") if key in cell.overrides), None
    )


def _axes(cells: Iterable[Cell], setting: str) -> tuple[str, ...]:
    """The axes that decide a setting: each name on it goes with one value, and there are several values."""
    seen: dict[str, dict[str, set[object]]] = {}
    for cell in cells:
        for axis, name in cell.choices.items():
            seen.setdefault(axis, {}).setdefault(name, set()).add(_setting(cell, setting))
    return tuple(
        axis
        for axis, names in seen.items()
        if all(len(values) == 1 for values in names.values()) and len(set.union(*names.values())) > 1
    )
