"""Plain-text tables.

What it is: one function. What it knows: columns of text. What it does not know: what stands in them.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["table"]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns ``rows`` under ``header``, the first column left-aligned, the others right-aligned."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]

    def text(line: Sequence[str]) -> str:
        first = line[0].ljust(widths[0])
        rest = (cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))
        return "  ".join((first, *rest)).rstrip()

    return "\n".join((text(header), "  ".join("-" * width for width in widths), *map(text, rows)))
