"""Reports as files, in the format that the name of the file says."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Protocol

from skl_mmap.cli._errors import CommandError, ExitCode

__all__ = ["Report", "check_report_path", "write_report"]

_SUFFIXES = (".html", ".json")
_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>{title}</title></head>
<body>
{body}
</body>
</html>
"""


class Report(Protocol):
    """What can be written to a file."""

    def to_json(self) -> str:
        """Return it as JSON."""

    def _repr_html_(self) -> str:
        """Return it as HTML, to be put into a page."""


def check_report_path(path: str | None) -> None:
    """Refuse the path of a report before any work is done for it.

    Raises
    ------
    CommandError
        If its format is not known, or its folder is not there.
    """
    if path is None:
        return
    if Path(path).suffix not in _SUFFIXES:
        raise CommandError(
            f"{path!r} does not say in which format to write the report. "
            f"Pass a name that ends with {' or '.join(_SUFFIXES)}.",
            ExitCode.USAGE,
        )
    folder = Path(path).absolute().parent
    if not folder.is_dir():
        raise CommandError(
            f"{path!r} cannot be written, since there is no folder {str(folder)!r}. "
            "Make it first.",
            ExitCode.USAGE,
        )


def write_report(path: str, report: Report, title: str) -> None:
    """Write a report to a file.

    Parameters
    ----------
    path : str
        Its suffix is the format.
    report : Report
        What to write.
    title : str
        Title of an HTML page.

    Raises
    ------
    CommandError
        If the file cannot be written.
    """
    if Path(path).suffix == ".json":
        text = json.dumps(json.loads(report.to_json()), indent=2) + "\n"
    else:
        text = _PAGE.format(title=escape(title), body=report._repr_html_())
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise CommandError(
            f"{path} cannot be written ({error.strerror or error}), so the report is "
            "lost. Check the folder's permissions and the room on its disk."
        ) from error
