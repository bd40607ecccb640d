"""The table of estimators as HTML, for the documentation: sorted by a click."""

from __future__ import annotations

import html
import os
from collections.abc import Iterable
from pathlib import Path

from skl_mmap.copies._matrix import LAYOUTS, Row

__all__ = ["write_page"]

_STYLE = """\
<style>
#copies { border-collapse: collapse; font-size: 80%; }
#copies th { cursor: pointer; position: sticky; top: 0; vertical-align: bottom; }
#copies td, #copies th { border-bottom: 1px solid #8884; padding: 0.2em 0.5em; }
#copies td.number { text-align: right; font-variant-numeric: tabular-nums; }
#copies td.free { background: #2a82; }
#copies td.much { background: #c432; }
</style>
"""
_SCRIPT = """\
<script>
document.querySelectorAll("#copies th").forEach((head, column) => {
  let direction = 1;
  const key = (row) => row.cells[column].dataset.key || row.cells[column].textContent;
  head.addEventListener("click", () => {
    const body = document.querySelector("#copies tbody");
    const rows = [...body.rows];
    const isNumber = rows.every((row) => key(row) === "" || !isNaN(key(row)));
    const compare = isNumber
      ? (a, b) => (key(a) === "") - (key(b) === "") || key(a) - key(b)
      : (a, b) => key(a).localeCompare(key(b));
    rows.sort((a, b) => direction * compare(a, b));
    body.append(...rows);
    direction = -direction;
  });
});
</script>
"""
_FREE, _MUCH = 0.1, 1.5
_SHORT = {"copy-on-write": "c", "read-only": "r"}


def write_page(path: str | os.PathLike[str], rows: Iterable[Row]) -> None:
    """Write the rows as one HTML table, for a page that includes it."""
    ordered = sorted(rows, key=lambda row: row.estimator.rpartition(".")[2])
    heads = [
        "estimator",
        *(_short_name(str(layout)) for layout in LAYOUTS),
        *("best layout", "converts float64 C to", "why", "what needs less"),
    ]
    lines = [
        _STYLE,
        '<div style="overflow-x: auto"><table id="copies"><thead><tr>',
        *(f"<th>{html.escape(head)}</th>" for head in heads),
        "</tr></thead><tbody>",
        *map(_write_row, ordered),
        "</tbody></table></div>",
        _SCRIPT,
    ]
    Path(path).write_text("\n".join(lines), encoding="utf-8")


def _short_name(layout: str) -> str:
    dtype, order, mode = layout.split()
    return f"{dtype} {order} {_SHORT[mode]}"


def _write_row(row: Row) -> str:
    name = row.estimator.rpartition(".")[2]
    cells = [f'<td title="{html.escape(row.estimator)}">{html.escape(name)}</td>']
    if row.outcome != "ok":
        cells += ["<td></td>"] * (len(LAYOUTS) + 2)
        cells += [f"<td>{html.escape(row.message)}</td>", "<td></td>"]
        return f"<tr>{''.join(cells)}</tr>"
    cells += [_write_copies(row.copies.get(str(layout))) for layout in LAYOUTS]
    changes = f" ({row.results} results)" if row.remedy else ""
    remedy = f"<code>{html.escape(row.remedy)}</code>{changes}" if row.remedy else ""
    cells += [
        f"<td>{html.escape(_short_name(row.best))}</td>",
        f"<td>{html.escape(row.converts.get('float64 C', ''))}</td>",
        f'<td title="{html.escape(row.site)}">{html.escape(row.why)}</td>',
        f"<td>{remedy}</td>",
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _write_copies(copies: float | None) -> str:
    if copies is None:
        return "<td></td>"
    kind = " free" if copies < _FREE else " much" if copies >= _MUCH else ""
    return f'<td class="number{kind}" data-key="{copies}">{copies:.1f}</td>'
