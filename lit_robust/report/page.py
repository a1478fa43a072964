"""One HTML page that needs nothing else: elements that escape what they hold, sections, and the style sheet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

_VOID = ("br", "img", "meta")
_STYLE = Path(__file__).with_name("page.css")


class Markup(str):
    """Text that is HTML already; all other text is escaped where it goes into an element."""

    __slots__ = ()


Content = str | Iterable["Content"] | None


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page.

    Attributes:
        anchor: Its name in links.
        title: Its heading.
        body: What it holds.
        empty: Whether there were no results for it.
    """

    anchor: str
    title: str
    body: Markup
    empty: bool = False


def element(name: str, *content: Content, **attributes: str) -> Markup:
    """An element.

    Args:
        name: Its name, such as `p`.
        *content: What it holds: text, which is escaped unless it is `Markup`, or lists of it; None is nothing.
        **attributes: Its attributes, escaped; an underscore at the end of a name is dropped.
    """
    given = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items())
    if name in _VOID:
        return Markup(f"<{name}{given}>")
    return Markup(f"<{name}{given}>{joined(content)}</{name}>")


def joined(content: Content) -> Markup:
    """Contents one after the other, escaped unless they are `Markup`."""
    if content is None:
        return Markup("")
    if isinstance(content, Markup):
        return content
    if isinstance(content, str):
        return Markup(escape(content, quote=False))
    return Markup("".join(joined(each) for each in content))


def lines(*content: Content) -> Markup:
    """Contents below each other; None is left out."""
    kept = [joined(each) for each in content if each is not None and joined(each)]
    return Markup(element("br").join(kept))


def table(headings: Sequence[Content], rows: Iterable[Sequence[Content]], *, text: Iterable[int] = ()) -> Markup:
    """A table whose first column holds the rows' headings; it scrolls by itself where the screen is narrow.

    Args:
        headings: Contents of the first row.
        rows: Contents of the others.
        text: Columns of sentences, which may be broken into lines.
    """
    wide = set(text)
    head = element("tr", [element("th", each, scope="col") for each in headings])
    body = [
        element(
            "tr",
            element("th", row[0], scope="row"),
            [element("td", each, class_="text" if i in wide else "number") for i, each in enumerate(row[1:], start=1)],
        )
        for row in rows
    ]
    whole = element("table", element("thead", head), element("tbody", body))
    return element("div", whole, class_="wide", tabindex="0")


def command(text: str) -> Markup:
    """A command to type."""
    return element("code", text)


def paragraph(*content: Content) -> Markup:
    """A paragraph."""
    return element("p", *content)


def note(*content: Content) -> Markup:
    """A remark in small print."""
    return element("p", *content, class_="note")


def details(title: str, *content: Content) -> Markup:
    """What is shown on demand."""
    return element("details", element("summary", title), *content)


def page(title: str, head: Content, sections: Sequence[Section]) -> str:
    """The whole page.

    Args:
        title: Title of the page.
        head: What stands above the sections.
        sections: The sections; the empty ones come last, each with a line.
    """
    full, empty = ([s for s in sections if s.empty == wanted] for wanted in (False, True))
    links = [element("a", section.title, href=f"#{section.anchor}") for section in full]
    missing = [element("li", element("strong", f"{s.title}: "), s.body, id=s.anchor) for s in empty]
    body = [
        element("header", element("h1", title), head),
        element("nav", [[link, " "] for link in links], aria_label="sections"),
        [element("section", element("h2", s.title), s.body, id=s.anchor) for s in full],
        element("section", element("h2", "Not measured"), element("ul", missing)) if missing else None,
    ]
    # Nothing may be fetched, also if a name in the results should ever slip through as markup.
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    meta = [
        element("meta", charset="utf-8"),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        element("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name_="color-scheme", content="light dark"),
        element("title", title),
        element("style", Markup(_STYLE.read_text())),
    ]
    return f'<!DOCTYPE html>\n<html lang="en">\n{element("head", meta)}\n{element("body", body)}\n</html>\n'
