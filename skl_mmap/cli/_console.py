"""All tables, paragraphs and progress bars of the command line, drawn with rich.

On a terminal, text wraps and tables have rules. Elsewhere somebody's script reads them:
lines are plain and as long as they need to be, columns two spaces apart.
"""

from __future__ import annotations

import io
import shutil
import sys
import textwrap
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from skl_mmap._tables import format_table

if TYPE_CHECKING:
    from typing_extensions import Self

# A table: its head, and rows, which may end early.
Rows = Sequence[Sequence[str]]


def show(*parts: str | Rows) -> None:
    """Print paragraphs and tables to stdout, wrapped if that is a terminal."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for part in parts:
        if isinstance(part, str):
            print(part if width is None else _wrap(part, width))
        else:
            print(format_table(part) if width is None else _draw_table(part, width))


def _draw_table(rows: Rows, width: int) -> str:
    """Draw a table for a terminal so many columns wide; long cells wrap."""
    # Imported late: most of what the command line does needs no table.
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(rows[0]):
        side: Literal["left", "right"] = "right" if index else "left"
        table.add_column(Text(name), justify=side, overflow="fold")
    for row in rows[1:]:
        table.add_row(*map(Text, row))
    # To text first, so that print() is what meets a closed pipe.
    console = Console(file=io.StringIO(), force_terminal=True, width=width)
    with console.capture() as capture:
        console.print(table)
    lines = [line.rstrip() for line in capture.get().splitlines()]
    return "\n".join(lines).strip("\n")


def _wrap(text: str, width: int) -> str:
    """Break lines between words; what is indented stays so, and paths stay whole."""
    wrapped = []
    for line in text.splitlines():
        indent = line[: len(line) - len(line.lstrip())]
        wrapped.append(
            textwrap.fill(
                line,
                width,
                subsequent_indent=indent,
                break_long_words=False,
                break_on_hyphens=False,
            )
        )
    return "\n".join(wrapped)


class Progress:
    """Show which step of how many is under way; a context manager.

    On a terminal it is a bar, elsewhere each step is a line. It goes to stderr.
    """

    def __init__(self, n_steps: int) -> None:
        self._n_steps = n_steps
        self._n_begun = 0
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        """Show the bar, if there is a terminal."""
        if sys.stderr.isatty():
            self._bar = _make_bar()
            self._task = self._bar.add_task("", total=self._n_steps)
            self._bar.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()

    def step(self, text: str) -> None:
        """Begin the next step; the one before is done."""
        if self._bar is not None:
            self._bar.update(self._task, description=text, completed=self._n_begun)
        self._n_begun += 1
        if self._bar is None:
            print(f"[{self._n_begun}/{self._n_steps}] {text}", file=sys.stderr)


def _make_bar() -> Any:
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        progress.SpinnerColumn(),
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
