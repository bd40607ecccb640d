"""Parts of a report as data frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from skl_mmap.exceptions import InvalidParameterError
from skl_mmap.report._holders import name_role

if TYPE_CHECKING:
    from skl_mmap.report._memory_report import MemoryReport

__all__ = ["make_frame"]

_Rows = list[dict[str, Any]]

_TASK_COLUMNS = (
    *("estimator", "label", "n_tasks", "mapped_bytes", "copied_bytes"),
    *("attached_bytes", "private_bytes", "dirtied_bytes", "seconds", "reason"),
)


def make_frame(report: MemoryReport, what: str) -> Any:
    """Return a part of a report as a pandas data frame; see `MemoryReport.to_frame`."""
    if what not in _PARTS:
        raise InvalidParameterError(
            f"what={what!r} is no part of a report. Pass one of {', '.join(_PARTS)}."
        )
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError(
            "to_frame() needs pandas, which is not installed. Run: "
            "pip install 'skl-mmap[tables]'"
        ) from error
    list_rows, columns = _PARTS[what]
    return pd.DataFrame(list_rows(report), columns=list(columns))


def _list_tasks(report: MemoryReport) -> _Rows:
    rows = []
    for task in report.tasks:
        row = {name: getattr(task, name) for name in _TASK_COLUMNS[:-1]}
        rows.append({**row, "reason": next(iter(task.copy_reasons), "")})
    return rows


def _list_records(report: MemoryReport) -> _Rows:
    return [
        {**asdict(record), "reason": next(iter(record.copy_reasons), "")}
        for record in report.records
    ]


def _list_timeline(report: MemoryReport) -> _Rows:
    return [asdict(reading) for reading in report.timeline]


def _list_processes(report: MemoryReport) -> _Rows:
    return [
        {
            "pid": series.pid,
            "name": series.name,
            "role": name_role(report, series.pid),
            "seconds": seconds,
            "anonymous_bytes": n_bytes,
            "cpu_seconds": cpu_seconds,
        }
        for series in report.processes
        for seconds, n_bytes, cpu_seconds in zip(
            series.seconds, series.anonymous_bytes, series.cpu_seconds, strict=True
        )
    ]


def _list_segments(report: MemoryReport) -> _Rows:
    return [asdict(segment) for segment in report.segments]


_PARTS: dict[str, tuple[Callable[[MemoryReport], _Rows], tuple[str, ...]]] = {
    "tasks": (_list_tasks, _TASK_COLUMNS),
    "records": (
        _list_records,
        (
            *("pid", "label", "seconds", "end_seconds", "mapped_bytes"),
            *("copied_bytes", "attached_bytes", "peak_private_bytes"),
            *("dirtied_bytes", "reason"),
        ),
    ),
    "timeline": (
        _list_timeline,
        (
            *("seconds", "committed_bytes", "anonymous_bytes", "shared_bytes"),
            *("file_bytes", "n_processes", "cpu_seconds"),
        ),
    ),
    "processes": (
        _list_processes,
        ("pid", "name", "role", "seconds", "anonymous_bytes", "cpu_seconds"),
    ),
    "segments": (
        _list_segments,
        ("description", "n_bytes", "place", "is_copy", "path"),
    ),
}
