"""Progress is a bar on a terminal, and lines elsewhere."""

from __future__ import annotations

import importlib.util
import io
import sys

import pytest

from skl_mmap.cli._progress import Progress

LINES = ["[1/3] loading", "[2/3] cross-validating"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def show_two_of_three_steps() -> None:
    with Progress(3) as progress:
        progress.step("loading")
        progress.step("cross-validating")


def test_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    show_two_of_three_steps()
    assert capsys.readouterr().err.splitlines() == LINES


def test_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich", reason="needs the extra demo")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    show_two_of_three_steps()
    shown = terminal.getvalue()
    assert "cross-validating" in shown
    # The second step is under way, so one is done.
    assert "1/3" in shown
    assert "2/3" not in shown
    assert not any(line in shown for line in LINES)


def test_lines_on_a_terminal_without_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("rich", "rich.console"):
        if importlib.util.find_spec("rich") is not None:
            monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    show_two_of_three_steps()
    assert terminal.getvalue().splitlines() == LINES
