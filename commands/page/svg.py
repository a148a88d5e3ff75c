"""Matplotlib's SVG, made part of a page.

What it is: one function from an SVG file's text to markup. What it knows: what an inline SVG must not bring along: a
style sheet for everything, metadata with addresses, identifiers that another plot has too, fonts and fixed colours.
What it does not know: what is drawn.

Plots are drawn in marker colours (`INKS`), which become the page's own, so that they follow light and dark.
"""

from __future__ import annotations

from xml.etree import ElementTree as ET

from allrounder.commands.page.markup import Markup, clean
from allrounder.commands.page.rows import SLOTS

__all__ = ["INKS", "inline"]

# marker colour -> the page's colour; p0 is the router's, the others follow (`rows.SLOTS`)
INKS = {f"#a0000{slot}": f"var(--p{slot})" for slot in range(SLOTS)} | {
    "#b00001": "var(--ink)",
    "#b00002": "var(--quiet)",
    "#b00003": "var(--line)",
    "#b00004": "var(--paper)",
}
_KEPT_STYLES = {"fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-opacity", "stroke-linecap", "opacity"}
_KEPT_STYLES |= {"stroke-dashoffset", "text-anchor", "font-size", "font-weight", "fill-opacity", "stroke-linejoin"}
_DROPPED = {"metadata", "style"}


def inline(text: str, name: str, alt: str) -> Markup:
    """Returns the SVG file ``text`` as an inline element.

    Args:
        text: As Matplotlib writes it with ``svg.fonttype`` none.
        name: Stands before every identifier; each plot of a page needs its own.
        alt: What the plot shows, for those who do not see it.
    """
    root = ET.fromstring(text)  # noqa: S314 - our own process wrote it
    _rewrite(root, name)
    size = root.attrib["viewBox"]
    root.attrib.clear()
    root.attrib.update({"viewBox": size, "role": "img", "aria-label": clean(alt), "class": "plot"})
    return Markup(ET.tostring(root, encoding="unicode"))


def _rewrite(node: ET.Element, name: str) -> None:
    for child in list(node):
        if _local(child.tag) in _DROPPED:
            node.remove(child)
        else:
            _rewrite(child, name)
    node.tag = _local(node.tag)
    node.tail = None
    if node.tag != "text":
        node.text = None
    old = {_local(key): " ".join(value.split()) for key, value in node.attrib.items()}
    if node.tag == "g":
        old.pop("id", None)  # names for editors only
    node.attrib.clear()
    node.attrib.update({key: _renamed(key, value, name) for key, value in old.items()})


def _renamed(key: str, value: str, name: str) -> str:
    """Returns an attribute's value with identifiers of this plot and colours of the page."""
    if key == "id":
        return f"{name}-{value}"
    if key == "href":
        return f"#{name}-{value.removeprefix('#')}"
    if key == "clip-path":
        return value.replace("url(#", f"url(#{name}-")
    return _styled(value) if key == "style" else value


def _styled(style: str) -> str:
    """Returns a style attribute with marker colours replaced and fonts left out."""
    kept = []
    for declaration in style.split(";"):
        key, _, value = (part.strip() for part in declaration.partition(":"))
        if key in _KEPT_STYLES:
            kept.append(f"{key}:{INKS.get(value, value)}")
    return ";".join(kept)


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]
