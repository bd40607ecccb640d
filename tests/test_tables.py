"""Tables of plain text and of HTML."""

from __future__ import annotations

from skl_mmap._tables import (
    Markup,
    format_table,
    html_block,
    html_details,
    html_table,
)


def test_columns_are_aligned() -> None:
    rows = [("task", "why", "bytes"), ("a", "seams", "12"), ("long", "", "3 MiB")]
    assert format_table(rows, align="<<", indent="  ").splitlines() == [
        "  task  why    bytes",
        "  a     seams     12",
        "  long         3 MiB",
    ]


def test_rows_may_end_early() -> None:
    assert format_table([("a", "b", "c"), ("1",)]).splitlines() == ["a  b  c", "1"]


def test_text_is_escaped_and_markup_is_not() -> None:
    table = html_table(["<a>", "n"], [["x & y", Markup("<b>1</b>")]])
    assert table == (
        '<table><thead><tr><th class="text">&lt;a&gt;</th><th>n</th></tr></thead>'
        '<tbody><tr><td class="text">x &amp; y</td><td><b>1</b></td></tr></tbody>'
        "</table>"
    )
    block = html_block("<title>", html_details("more", "a < b", is_open=True))
    assert block.startswith('<div class="skl-mmap"><style>')
    assert "<h4>&lt;title&gt;</h4>" in block
    assert "<details open><summary>more</summary>a &lt; b</details></div>" in block


def test_the_style_holds_for_light_and_dark_pages() -> None:
    style = html_block("")
    assert "color: " not in style
    assert "background" not in style
