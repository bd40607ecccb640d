"""How a command ends: the exit codes, and the errors that lead to them."""

from __future__ import annotations

from enum import IntEnum

from skl_mmap.exceptions import SklMmapError

__all__ = ["CommandError", "ExitCode"]


class ExitCode(IntEnum):
    """Exit codes of every subcommand.

    A shell adds 128 to the number of a signal: 130 is Ctrl-C, 141 a closed pipe.
    """

    OK = 0
    CHECK_FAILED = 1
    USAGE = 2
    CANNOT_RUN = 3
    INTERRUPTED = 130
    BROKEN_PIPE = 141


class CommandError(SklMmapError, RuntimeError):
    """A command cannot go on.

    Parameters
    ----------
    message : str
        What was found, why it matters, what to do.
    exit_code : ExitCode, default=ExitCode.CANNOT_RUN
        What the process returns to the shell.
    """

    def __init__(
        self, message: str, exit_code: ExitCode = ExitCode.CANNOT_RUN, /
    ) -> None:
        super().__init__(message, exit_code)
        self.message = message
        self.exit_code = exit_code

    def __str__(self) -> str:
        """Return the message alone: the exit code is for the shell."""
        return self.message
