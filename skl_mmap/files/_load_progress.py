"""A bar on stderr for files that take long to load."""

from __future__ import annotations

import importlib.util
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from skl_mmap.exceptions import InvalidParameterError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["LoadProgress"]

# What is done sooner needs no bar.
_PATIENCE_SECONDS = 1.0


class LoadProgress:
    """Show how many bytes of a file have been read; a context manager.

    Parameters
    ----------
    text : str
        What is being done.
    n_bytes : int
        The size of the file.
    is_wanted : bool or None
        None shows the bar on a terminal, if rich is installed and the work takes
        longer than a second.

    Raises
    ------
    InvalidParameterError
        If a bar is wanted and rich is not installed, or `is_wanted` is no bool.
    """

    def __init__(self, text: str, n_bytes: int, is_wanted: bool | None) -> None:
        if is_wanted not in (None, True, False):
            raise InvalidParameterError(
                f"progress={is_wanted!r} does not say whether to show a bar. "
                "Pass True, False, or None for one on a terminal."
            )
        has_rich = importlib.util.find_spec("rich") is not None
        if is_wanted and not has_rich:
            raise InvalidParameterError(
                "progress=True needs rich to draw the bar, and it is not installed. "
                "Run pip install rich, or pass progress=None."
            )
        if is_wanted is None:
            is_wanted = has_rich and sys.stderr.isatty()
            self._starts_at = time.monotonic() + _PATIENCE_SECONDS
        else:
            self._starts_at = time.monotonic()
        self._is_wanted = is_wanted
        self._text = text
        self._n_bytes = n_bytes
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
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

    def update(self, done_bytes: int) -> None:
        """Say how far the work is."""
        if not self._is_wanted:
            return
        if self._bar is None:
            if time.monotonic() < self._starts_at:
                return
            self._bar = _make_bar()
            self._task = self._bar.add_task(self._text, total=self._n_bytes)
            self._bar.start()
        self._bar.update(self._task, completed=min(done_bytes, self._n_bytes))


def _make_bar() -> Any:
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(binary_units=True),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
