"""Reports as JSON, and back; parts of them as data frames.

A report is written with all its attributes, under their names. `schema` goes up when a
reader of the last version would misread a file; attributes that are only added leave it
as it is, and readers that do not know them leave them out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from skl_mmap._tables import as_data_frame
from skl_mmap.exceptions import FileFormatError, InvalidParameterError
from skl_mmap.monitor import MeasuredBlock
from skl_mmap.report._findings import explain

if TYPE_CHECKING:
    from skl_mmap.report._memory_report import MemoryReport

SCHEMA = 1
_KIND = "skl_mmap memory report"

_Report = TypeVar("_Report", bound=MeasuredBlock)
_Rows = list[dict[str, Any]]


def write_json(report: MeasuredBlock, path: str | os.PathLike[str] | None) -> str:
    """Write a report; see `MemoryReport.to_json`."""
    content = {"kind": _KIND, "schema": SCHEMA, **dataclasses.asdict(report)}
    text = json.dumps(content, allow_nan=False, default=_as_plain)
    if path is not None:
        Path(path).write_text(text + "\n", encoding="utf-8")
    return text


def _as_plain(value: Any) -> Any:
    """Take a numpy number for what it is: records come from code that may use them."""
    return value.item()


def read_json(kind: type[_Report], source: str | os.PathLike[str]) -> _Report:
    """Read a report; see `MemoryReport.from_json`."""
    if isinstance(source, str) and source.lstrip().startswith("{"):
        name, text = "the text", source
    else:
        path = Path(source)
        name, text = str(path), path.read_text(encoding="utf-8")
    try:
        content = json.loads(text)
    except ValueError as error:
        raise FileFormatError(
            f"{name} is not JSON ({error}), so there is no report to read. Pass what "
            "MemoryReport.to_json() has written."
        ) from error
    _check_version(content, name)
    try:
        report: _Report = _build(kind, content)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise FileFormatError(
            f"{name} says that it is a memory report of schema {SCHEMA}, and lacks "
            f"what one has ({error!r}). Was it changed by hand? Write it anew with "
            "MemoryReport.to_json()."
        ) from error
    return report


def _check_version(content: Any, name: str) -> None:
    if not isinstance(content, dict) or content.get("kind") != _KIND:
        raise FileFormatError(
            f"{name} is not a memory report: it lacks kind={_KIND!r}. Pass what "
            "MemoryReport.to_json() has written."
        )
    schema = content.get("schema")
    if not isinstance(schema, int) or schema < 1:
        raise FileFormatError(
            f"{name} has schema={schema!r}, which is not a version of reports. Write "
            "it anew with MemoryReport.to_json()."
        )
    if schema > SCHEMA:
        raise FileFormatError(
            f"{name} was written by a newer version of skl_mmap (schema {schema}, and "
            f"this version knows {SCHEMA}), so its numbers could be misread. Run: "
            "pip install --upgrade skl-mmap"
        )


def _build(kind: Any, content: Any) -> Any:
    """Make a value of a type of what JSON has kept of it, or raise an error."""
    origin, parts = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return _build_one_of(parts, content)
    if isinstance(origin, type) and dataclasses.is_dataclass(origin):
        hints = _find_types(origin)
        known = {name: content[name] for name in hints if name in content}
        values = {name: _build(hints[name], value) for name, value in known.items()}
        return origin(**values)
    if origin is tuple:
        if not isinstance(content, list):
            raise TypeError(f"{content!r} is not a list")
        kinds = parts[:1] * len(content) if parts[-1] is ... else parts
        return tuple(_build(k, v) for k, v in zip(kinds, content, strict=True))
    if origin is Mapping:
        key, value = parts
        return {_build(key, k): _build(value, v) for k, v in content.items()}
    is_number = origin is float and type(content) is int
    if type(content) is not origin and not is_number:
        raise TypeError(f"{content!r} is not of type {origin.__name__}")
    return content


def _build_one_of(kinds: tuple[Any, ...], content: Any) -> Any:
    if content is None and types.NoneType in kinds:
        return None
    others = [kind for kind in kinds if kind is not types.NoneType]
    for kind in others[:-1]:
        with contextlib.suppress(TypeError):
            return _build(kind, content)
    return _build(others[-1], content)


@functools.cache
def _find_types(kind: type[Any]) -> dict[str, Any]:
    """Return the types of the fields of a dataclass, by name."""
    hints = typing.get_type_hints(kind)
    return {
        attribute.name: hints[attribute.name] for attribute in dataclasses.fields(kind)
    }


_TASK_COLUMNS = (
    *("estimator", "label", "n_tasks", "mapped_bytes", "copied_bytes"),
    *("attached_bytes", "private_bytes", "dirtied_bytes", "seconds", "reason"),
)


def make_part(report: MemoryReport, what: str) -> Any:
    """Return a part of a report as a pandas data frame; see `MemoryReport.to_frame`."""
    if what not in _PARTS:
        raise InvalidParameterError(
            f"what={what!r} is not a part of a report. Pass one of {', '.join(_PARTS)}."
        )
    list_rows, columns = _PARTS[what]
    return as_data_frame(list_rows(report), list(columns))


def _list_tasks(report: MemoryReport) -> _Rows:
    rows = []
    for task in report.tasks:
        row = {name: getattr(task, name) for name in _TASK_COLUMNS[:-1]}
        rows.append({**row, "reason": _main_reason(task.copy_reasons)})
    return rows


def _main_reason(copy_reasons: Mapping[str, int]) -> str:
    return explain(next(iter(copy_reasons), ""))


def _list_records(report: MemoryReport) -> _Rows:
    return [
        {**dataclasses.asdict(record), "reason": _main_reason(record.copy_reasons)}
        for record in report.records
    ]


def _list_timeline(report: MemoryReport) -> _Rows:
    return [dataclasses.asdict(reading) for reading in report.timeline]


def _list_processes(report: MemoryReport) -> _Rows:
    return [
        {
            "pid": series.pid,
            "name": series.name,
            "role": report.role_of(series.pid),
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
    return [dataclasses.asdict(segment) for segment in report.segments]


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
