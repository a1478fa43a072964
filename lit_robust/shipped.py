"""The configs that come with the package."""

from __future__ import annotations

import difflib
from pathlib import Path

from lit_robust.errors import UserError


def folder() -> Path:
    """`lit_robust/configs` of an installed wheel, `configs` beside the package in a checkout."""
    package = Path(__file__).parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def find(name: str) -> Path:
    """The file of a config: a path, else a bare name among the shipped ones (whole systems, then evaluations).

    Raises:
        UserError: If there is none; names the nearest.
    """
    path = Path(name)
    if path.is_file():
        return path
    if path.parent == Path():
        places = (folder(), folder() / "evaluation")
        found = next((place / name for place in places if (place / name).is_file()), None)
        if found is not None:
            return found
    known = sorted(p.name for place in (folder(), folder() / "evaluation") for p in place.glob("*.yaml"))
    near = difflib.get_close_matches(path.name, known, n=3) or known
    raise UserError(
        f"no config {name!r}, neither in {Path.cwd()} nor among the shipped ones; nearest: {', '.join(near)}"
    )
