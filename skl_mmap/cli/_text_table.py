"""Tables as plain text, where rich may not be installed."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["format_table"]

_GAP = "  "


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Align the columns of a table.

    Parameters
    ----------
    rows : sequence of sequences of str
        The first one has the names of the columns. Rows may end early.

    Returns
    -------
    str
        One line for each row: the first column to the left, the others to the right.

    Examples
    --------
    >>> print(format_table([("backend", "peak"), ("mmap", "1 MiB"), ("ray",)]))
    backend   peak
    mmap     1 MiB
    ray
    """
    n_columns = max(map(len, rows))
    padded = [[*row, *[""] * (n_columns - len(row))] for row in rows]
    widths = [max(map(len, column)) for column in zip(*padded, strict=True)]
    lines = []
    for row in padded:
        cells = [row[0].ljust(widths[0])]
        cells += [
            cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)
        ]
        lines.append(_GAP.join(cells).rstrip())
    return "\n".join(lines)
