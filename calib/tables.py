"""Plain-text tables, and lists of whole numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["ranges", "table"]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns ``rows`` under ``header``, the first column left-aligned, the others right-aligned."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]

    def text(line: Sequence[str]) -> str:
        first = line[0].ljust(widths[0])
        rest = (cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))
        return "  ".join((first, *rest)).rstrip()

    return "\n".join((text(header), "  ".join("-" * width for width in widths), *map(text, rows)))


def ranges(numbers: Iterable[int]) -> str:
    """Returns ascending whole numbers as people write them: ``0-3, 5, 7-8``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
