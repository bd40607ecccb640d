"""A progress bar on stderr, or plain lines where stderr is not a terminal."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Progress"]


class Progress:
    """Show which step of how many is under way; a context manager.

    Parameters
    ----------
    n_steps : int
        How many steps there will be.
    """

    def __init__(self, n_steps: int) -> None:
        self._n_steps = n_steps
        self._n_begun = 0
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        """Show the bar, if there is a terminal and rich to draw with."""
        if sys.stderr.isatty():
            self._bar = _make_bar()
        if self._bar is not None:
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
    """Return a bar of rich, None if rich is not installed."""
    try:
        from rich import progress
        from rich.console import Console
    except ImportError:
        return None
    return progress.Progress(
        progress.SpinnerColumn(),
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
