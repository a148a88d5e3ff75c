"""HTML, escaped: a few functions through which every text of the page goes.

What it is: ``Markup``, a text that is HTML already, and functions that make it out of plain text.
What it knows: escaping, void elements, characters that no page may hold. What it does not know: the page.

A plain ``str`` is always escaped; only what these functions returned is not. So a question that holds ``<script>`` is
shown as it was written.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Iterable, Sequence

__all__ = ["Markup", "clean", "element", "escape", "join", "table"]

_VOID = frozenset({"br", "hr", "meta"})
_REPLACED = "\N{REPLACEMENT CHARACTER}"


class Markup(str):
    """HTML, as made by this module."""

    __slots__ = ()


def clean(text: str) -> str:
    """Returns ``text`` with control characters and lone surrogates, which neither HTML nor XML may hold, replaced."""
    return "".join(_REPLACED if _is_control(character) else character for character in text)


def _is_control(character: str) -> bool:
    return character not in "\n\t" and unicodedata.category(character) in ("Cc", "Cs")


def escape(value: object) -> Markup:
    """Returns ``value`` as HTML: markup as it is, anything else as text."""
    return value if isinstance(value, Markup) else Markup(html.escape(clean(str(value)), quote=True))


def join(parts: Iterable[object], between: str = "") -> Markup:
    """Returns ``parts`` one after the other with ``between`` in between; those that are None are left out."""
    return Markup(str(escape(between)).join(str(escape(part)) for part in parts if part is not None))


def element(tag: str, *children: object, **attributes: object) -> Markup:
    """Returns ``<tag ...>children</tag>``; children and attributes that are None are left out.

    Attribute names lose a trailing underscore (``class_``), and further underscores become hyphens (``aria_label``).
    """
    named = ((name.rstrip("_").replace("_", "-"), value) for name, value in attributes.items() if value is not None)
    opening = tag + "".join(f' {name}="{escape(value)}"' for name, value in named)
    if tag in _VOID:
        return Markup(f"<{opening}>")
    return Markup(f"<{opening}>{join(children)}</{tag}>")


def table(caption: object, header: Sequence[object], body: Iterable[Markup], class_: str | None = None) -> Markup:
    """Returns a table that scrolls by itself where the screen is narrow.

    Args:
        caption: What the table shows, read with it.
        header: The column titles.
        body: Rows, ``<tr>`` each.
        class_: Of the table.
    """
    titles = [title if _is_cell(title) else element("th", title, scope="col") for title in header]
    drawn = element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *titles)),
        element("tbody", *body),
        class_=class_,
    )
    return element("div", drawn, class_="scroll", tabindex="0", role="region", aria_label="a table, scrolls sideways")


def _is_cell(title: object) -> bool:
    return isinstance(title, Markup) and title.startswith(("<th", "<td"))
