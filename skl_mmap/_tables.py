"""Tables: plain text in columns, HTML in one look for light and dark pages, frames.

HTML is made of text that is escaped here, and of `Markup`, which is HTML already. It
has no scripts and fetches nothing, so it can stand in any page or notebook.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

_GAP = "  "
# No colours but shades of what is there: readable on a light page and on a dark one.
_STYLE = """
.skl-mmap {font: 13px/1.45 system-ui, sans-serif; max-width: 60em}
.skl-mmap h4 {margin: 0.2em 0; font-size: 15px}
.skl-mmap p {margin: 0.2em 0}
.skl-mmap dl {display: grid; grid-template-columns: max-content 1fr;
 gap: 0.1em 1em; margin: 0.4em 0}
.skl-mmap dt {font-weight: 600}
.skl-mmap dd {margin: 0}
.skl-mmap table {border-collapse: collapse; margin: 0.4em 0; font-size: inherit}
.skl-mmap th, .skl-mmap td {padding: 0.1em 0.8em 0.1em 0; text-align: right;
 white-space: nowrap; border: 0; border-bottom: 1px solid #8884}
.skl-mmap .text {text-align: left; white-space: normal}
.skl-mmap summary {cursor: pointer}
.skl-mmap .key {display: inline-block; width: 0.8em; height: 0.8em;
 margin: 0 0.35em 0 1em; border-radius: 2px}
"""


def as_data_frame(
    rows: Sequence[dict[str, Any]], columns: Sequence[str] | None = None
) -> Any:
    """Return a table as a pandas data frame.

    Parameters
    ----------
    rows : sequence of dict of str to object
        The values of each row by column.
    columns : sequence of str, default=None
        Names of the columns, in order; None takes them from the rows.

    Raises
    ------
    ImportError
        If pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError(
            "to_frame() needs pandas, which is not installed. Run: "
            "pip install 'skl-mmap[tables]'"
        ) from error
    return pd.DataFrame(rows, columns=columns)


class Markup(str):
    """HTML, which is left as it is; all other text is escaped."""

    __slots__ = ()


def format_table(
    rows: Sequence[Sequence[str]], *, align: str = "<", indent: str = ""
) -> str:
    """Align the columns of a table of plain text.

    Parameters
    ----------
    rows : sequence of sequences of str
        The first one has the names of the columns. Rows may end early.
    align : str, default="<"
        ``<`` (to the left) or ``>`` for each column; further ones go to the right.
    indent : str, default=""
        What each line begins with.

    Returns
    -------
    str
        One line for each row, without spaces at its end.

    Examples
    --------
    >>> print(format_table([("backend", "peak"), ("mmap", "1 MiB"), ("ray",)]))
    backend   peak
    mmap     1 MiB
    ray
    """
    columns = itertools.zip_longest(*rows, fillvalue="")
    padded = []
    for column, side in zip(columns, _sides(align), strict=False):
        width = max(map(len, column))
        padded.append([f"{cell:{side}{width}}" for cell in column])
    lines = (indent + _GAP.join(cells) for cells in zip(*padded, strict=True))
    return "\n".join(line.rstrip() for line in lines)


def html_table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, align: str = "<"
) -> Markup:
    """Write a table as HTML; `align` as in `format_table`."""
    lines = "".join(_html_row("td", row, align) for row in rows)
    return Markup(
        f"<table><thead>{_html_row('th', head, align)}</thead>"
        f"<tbody>{lines}</tbody></table>"
    )


def html_block(title: str, *parts: str) -> str:
    """Put parts under a title, with the style that they need: what a notebook shows."""
    content = "".join(map(_as_markup, parts))
    return (
        f'<div class="skl-mmap"><style>{_STYLE}</style>'
        f"<h4>{_as_markup(title)}</h4>{content}</div>"
    )


def html_details(title: str, content: str, *, is_open: bool = False) -> Markup:
    """Put content under a title that opens and closes it."""
    return Markup(
        f"<details{' open' if is_open else ''}><summary>{_as_markup(title)}</summary>"
        f"{_as_markup(content)}</details>"
    )


def _html_row(tag: str, cells: Sequence[str], align: str) -> str:
    parts = []
    for cell, side in zip(cells, _sides(align), strict=False):
        kind = ' class="text"' if side == "<" else ""
        parts.append(f"<{tag}{kind}>{_as_markup(cell)}</{tag}>")
    return f"<tr>{''.join(parts)}</tr>"


def _sides(align: str) -> Iterable[str]:
    return itertools.chain(align, itertools.repeat(">"))


def _as_markup(text: str) -> str:
    return text if isinstance(text, Markup) else escape(text)
