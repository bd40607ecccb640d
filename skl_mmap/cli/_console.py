"""All tables, paragraphs and progress bars of the command line, drawn with rich.

On a terminal, text wraps and tables have rules. Elsewhere somebody's script reads them:
lines are plain and as long as they need to be, columns two spaces apart.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from skl_mmap._tables import format_table

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


def show_json(value: object) -> None:
    """Print JSON to stdout."""
    print(json.dumps(value, indent=2))


def _draw_table(rows: Rows, width: int) -> str:
    """Draw a table for a terminal so many columns wide; long cells wrap."""
    # Imported late: most of what the command line does needs no table.
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
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
    return "\n".join(
        textwrap.fill(
            line,
            width,
            subsequent_indent=line[: len(line) - len(line.lstrip())],
            break_long_words=False,
            break_on_hyphens=False,
        )
        for line in text.splitlines()
    )


@contextlib.contextmanager
def showing_progress(n_steps: int) -> Iterator[Callable[[str], None]]:
    """Show on stderr which step of how many is under way while a block runs.

    Yields a function that begins the next step, with its text; the one before is done.
    On a terminal there is a bar, elsewhere each step is a line.
    """
    numbers = itertools.count(1)
    if not sys.stderr.isatty():
        yield lambda text: print(f"[{next(numbers)}/{n_steps}] {text}", file=sys.stderr)
        return
    from rich import progress
    from rich.console import Console

    bar = progress.Progress(
        progress.SpinnerColumn(),
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    task = bar.add_task("", total=n_steps)
    with bar:
        yield lambda text: bar.update(
            task, description=text, completed=next(numbers) - 1
        )
