"""Rows of words as lines for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

WIDEST = 40  # characters of a name


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows as lines, indented: the first column and bars of # to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(max(map(len, rows), default=0))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(widths[i]) if i and not cell.startswith("#") else cell.ljust(widths[i])
            for i, cell in enumerate(row)
        ]
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines)


def plain(name: str) -> str:
    """A name from a file, fit for a terminal: no control characters, not too long."""
    name = name if name.isprintable() else ascii(name)
    return name if len(name) <= WIDEST else name[: WIDEST - 3] + "..."
