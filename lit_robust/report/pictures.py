"""The pictures of a page: drawn or taken over from a test, written beside the page and put into it."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lit_robust.evaluation.store import writing
from lit_robust.report.page import Content, Markup, element

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 120  # as tests draw theirs
_SCALE = 0.8  # on the page; sharper where it is enlarged or printed
_LONGEST = 600  # characters of a description


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Where the pictures of a page go.

    Attributes:
        folder: Folder of the page.
        prefix: What their names begin with, so that pages in one folder do not share them.
        written: The files so far.
    """

    folder: Path
    prefix: str = ""
    written: list[Path] = field(default_factory=list)

    def drawn(self, name: str, figure: Figure, description: str, caption: Content = None) -> Markup:
        """A figure, written as PNG.

        Args:
            name: Name of its file, without ending.
            figure: The figure.
            description: What it shows, for those who do not see it.
            caption: What stands below.
        """
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=_DPI, format="png")
        return self.taken(name, buffer.getvalue(), description, caption)

    def taken(self, name: str, png: bytes, description: str, caption: Content = None) -> Markup:
        """A picture that is there already, copied beside the page.

        Args:
            name: Name of its file, without ending.
            png: Its content.
            description: What it shows, for those who do not see it.
            caption: What stands below.

        Raises:
            UserError: If it cannot be written.
        """
        slug = re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("._") or "picture"
        path = self.folder / f"{self.prefix}{slug}.png"
        number = 1
        while path in self.written:
            number += 1
            path = self.folder / f"{self.prefix}{slug}-{number}.png"
        with writing(self.folder, path.name):
            path.write_bytes(png)
        self.written.append(path)
        width = int.from_bytes(png[16:20], "big")  # of a PNG's header
        shown = inline(png, description, width=str(round(_SCALE * width)))
        return element("figure", shown, element("figcaption", caption) if caption else None)


def inline(png: bytes, description: str, **attributes: str) -> Markup:
    """An image whose content is in the page.

    Args:
        png: Its content.
        description: What it shows.
        **attributes: Other attributes of the element.
    """
    text = description if len(description) <= _LONGEST else f"{description[: _LONGEST - 1]}…"
    return element("img", src=f"data:image/png;base64,{base64.b64encode(png).decode()}", alt=text, **attributes)
