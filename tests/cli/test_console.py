"""Tables, paragraphs and bars: for people on a terminal, for scripts elsewhere."""

from __future__ import annotations

import io
import re
import sys

import pytest

from skl_mmap.cli._console import show, showing_progress

LINES = ["[1/3] loading", "[2/3] cross-validating"]
ROWS = [
    ["backend", "peak above X"],
    ["mmap [bold]", "1 MiB"],
    ["ray"],
    ["x" * 60, "1,000,000.0 MiB"],
]
SENTENCE = "A sentence of many words, with /a/path/that-stays/whole.npy " * 3


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def use_terminal(monkeypatch: pytest.MonkeyPatch, *, n_columns: int) -> Terminal:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(n_columns))
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    return terminal


def show_two_of_three_steps() -> None:
    with showing_progress(3) as begin_step:
        begin_step("loading")
        begin_step("cross-validating")


def test_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    show_two_of_three_steps()
    assert capsys.readouterr().err.splitlines() == LINES


def test_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch, n_columns=100)
    show_two_of_three_steps()
    shown = terminal.getvalue()
    assert "cross-validating" in shown
    # The second step is under way, so one is done.
    assert "1/3" in shown
    assert "2/3" not in shown
    assert not any(line in shown for line in LINES)


def test_what_a_script_reads_is_plain_and_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # What rich would look at: neither may change what is piped.
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "20")
    show(SENTENCE, ROWS)
    first, *table = capsys.readouterr().out.splitlines()
    assert first == SENTENCE
    assert [re.split(" {2,}", line) for line in table] == ROWS
    assert {len(line) for line in table if not line.startswith("ray")} == {77}


def test_tables_and_text_wrap_to_the_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = use_terminal(monkeypatch, n_columns=50)
    show(SENTENCE, "  indented " * 9, ROWS)
    shown = re.sub(r"\x1b\[\d*m", "", terminal.getvalue())
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 50
    assert shown.count("/a/path/that-stays/whole.npy") == 3
    assert sum(line.startswith("  indented") for line in lines) > 1
    # Markup is text, nothing is cut off, and there is a rule below the head.
    assert "mmap [bold]" in shown
    assert shown.count("x") == 60
    assert "─" * 10 in shown
    assert "\x1b[1m" in terminal.getvalue()
