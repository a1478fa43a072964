"""A patch dictionary: its atoms, and the file that they are kept in with how they were learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_robust import runs
from lit_robust.errors import UserError

FILE = "dictionary.pt"  # in a run's folder


@dataclass(frozen=True, eq=False)
class PatchDictionary:
    """Atoms of a patch dictionary, with the settings that they were learned with.

    Args:
        atoms: The atoms, (L, C, k, k), of Euclidean norm 1.
        settings: Plain values by name: `patch` (k), `atoms` (L), `channels` (C), and whatever else made the dictionary
            (`alpha`, `mini_batches`, `data`, ...).

    Raises:
        UserError: If there are no atoms, they are no square patches, or one is zero or not finite.
    """

    atoms: Tensor
    settings: Mapping[str, Any]

    def __post_init__(self) -> None:
        shape = tuple(self.atoms.shape)
        if len(shape) != 4 or shape[2] != shape[3] or not self.atoms.numel():
            raise UserError(f"expected atoms of a dictionary as (L, C, k, k), one at least, got shape {shape}")
        norms = self.atoms.detach().flatten(1).norm(dim=1)
        bad = (~((norms > 0) & norms.isfinite())).nonzero()[:, 0].tolist()
        if bad:
            raise UserError(
                f"{len(bad)} of {len(self.atoms)} atoms of the dictionary are zero or not finite, such as atom "
                f"{bad[0]}; learn it with more patches (model.mini_batches) or fewer atoms (model.atoms)"
            )

    @classmethod
    def of(cls, atoms: Tensor, **settings: object) -> PatchDictionary:
        """A dictionary whose settings begin with what the shape of its atoms says."""
        shape = dict(zip(("atoms", "channels", "patch"), atoms.shape, strict=False))
        return cls(atoms, {**shape, **settings})

    def save(self, path: Path) -> None:
        """Writes the file, readable weights-only."""
        torch.save({"atoms": self.atoms.detach().contiguous(), "settings": dict(self.settings)}, path)

    @classmethod
    def load(cls, place: str | Path) -> PatchDictionary:
        """Reads a file, or the one in a run's folder.

        Args:
            place: The file, or the folder of a run that learned a dictionary.

        Raises:
            UserError: If there is none, or it holds something else.
        """
        path = Path(place).expanduser()
        if not path.exists():
            raise UserError(
                f"no dictionary at {place}; learn one (fit --config dictionary_cifar10.yaml prints its folder) and set "
                "encoder.dictionary to that folder, or to the file"
            )
        if path.is_dir():
            if not (path / FILE).is_file():
                half = runs.checkpoint(path, "last") is not None
                raise UserError(
                    f"{place} has no {FILE}; "
                    + (f"finish it: fit --resume {place}" if half else "expected the folder of a run that learned one")
                )
            path = path / FILE
        content = runs.load_checkpoint(path)
        atoms, settings = content.get("atoms"), content.get("settings")
        if not isinstance(atoms, Tensor) or not isinstance(settings, dict):
            raise UserError(f"{path} holds no dictionary: expected `atoms` and `settings`, got {', '.join(content)}")
        return cls(atoms, settings)

    def require(self, source: object, **stated: object) -> None:
        """Refuses a dictionary with other settings than those stated.

        Args:
            source: Where it comes from, for the message.
            **stated: Settings by name; None for any.

        Raises:
            UserError: Naming what differs.
        """
        other = [
            f"{name} {self.settings.get(name, 'unknown')} where {value} is asked for"
            for name, value in stated.items()
            if value is not None and self.settings.get(name) != value
        ]
        if other:
            raise UserError(
                f"the dictionary {source} has {', '.join(other)}; learn one with these settings, or state those it has"
            )


class PatchAtoms(nn.Module):
    """The atoms that a `DictionaryLearning` regime learns; zeros before it starts.

    Args:
        atoms: Number of atoms, L.
        patch: Side of the patches in pixels, k.
        in_channels: Channels of the images, C; None follows the data in a config, and is 3 outside one.

    Attributes:
        atoms: The atoms, (L, C, k, k).

    Raises:
        UserError: If a number is below 1.
    """

    atoms: Tensor

    def __init__(self, atoms: int = 500, patch: int = 4, in_channels: int | None = None) -> None:
        super().__init__()
        channels = 3 if in_channels is None else in_channels
        if min(atoms, patch, channels) < 1:
            raise UserError(f"expected at least one atom, pixel and channel, got {atoms} atoms of {channels} x {patch}")
        self.register_buffer("atoms", torch.zeros(atoms, channels, patch, patch))

    def forward(self, x: Tensor) -> Tensor:
        """Inner products of all atoms with the patches at every pixel, (N, L, H − k + 1, W − k + 1)."""
        return F.conv2d(x, self.atoms)

    def extra_repr(self) -> str:
        """The shape of the atoms."""
        return f"{tuple(self.atoms.shape)}"
