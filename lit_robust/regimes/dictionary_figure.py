"""The atoms of a patch dictionary, drawn."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 400  # as the dissertation's Fig. 4.12 shows


def atom_grid(atoms: Tensor, gap: int = 1) -> Tensor:
    """The last 400 atoms in a square grid, each from its least value (0) to its largest (1), white between them.

    Args:
        atoms: Atoms (L, C, k, k) with one channel or three.
        gap: Pixels between atoms.

    Returns:
        An image (3, H, W) in [0, 1].
    """
    shown = atoms.detach().float()[-_SHOWN:]
    low, high = shown.amin((1, 2, 3), keepdim=True), shown.amax((1, 2, 3), keepdim=True)
    scaled = (shown - low) / (high - low).clamp(min=1e-12)
    scaled = scaled.expand(-1, 3, -1, -1) if scaled.shape[1] == 1 else scaled[:, :3]
    side, step = math.ceil(math.sqrt(len(shown))), shown.shape[2] + gap
    rows = math.ceil(len(shown) / side)
    image = torch.ones(3, rows * step - gap, side * step - gap)
    for i, atom in enumerate(scaled):
        top, left = i // side * step, i % side * step
        image[:, top : top + step - gap, left : left + step - gap] = atom
    return image


def atoms_figure(atoms: Tensor, title: str) -> Figure:
    """`atom_grid` as a figure."""
    from matplotlib.figure import Figure

    image = atom_grid(atoms)
    figure = Figure(figsize=(6.0, 6.0 * image.shape[1] / image.shape[2] + 0.5), layout="constrained")
    axis = figure.subplots()
    axis.imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest")
    axis.set_title(title, fontsize=9)
    axis.set_axis_off()
    return figure
