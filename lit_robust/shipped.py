"""The configs that come with the package."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from lit_robust.errors import UserError


def folder() -> Path:
    """`lit_robust/configs` of an installed wheel, `configs` beside the package in a checkout."""
    package = Path(__file__).parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


CONFIGS = ("", "evaluation", "variants")  # folders of whole systems, of evaluations, and of variants to lay over them
SWEEPS = ("sweeps",)


def find(name: str, places: Sequence[str] = CONFIGS) -> Path:
    """A file: a path, else a bare name among the shipped ones.

    Args:
        name: Path or name.
        places: Folders of shipped files that a bare name is looked for in, in this order.

    Raises:
        UserError: If there is none; names the nearest.
    """
    path = Path(name)
    if path.is_file():
        return path
    folders = [folder() / place for place in places]
    if path.parent == Path():
        found = next((place / name for place in folders if (place / name).is_file()), None)
        if found is not None:
            return found
    known = sorted(p.name for place in folders for p in place.glob("*.yaml"))
    near = difflib.get_close_matches(path.name, known, n=3) or known
    what = "sweep" if places == SWEEPS else "config"
    raise UserError(
        f"no {what} {name!r}, neither in {Path.cwd()} nor among the shipped ones; nearest: {', '.join(near)}"
    )
