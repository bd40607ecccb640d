"""Reports as JSON, and back.

A report is written with all its attributes, under their names. `schema` goes up when a
reader of the last version would misread a file; attributes that are only added leave it
as it is, and readers that do not know them leave them out.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from skl_mmap.exceptions import FileFormatError
from skl_mmap.monitor import (
    GroupReading,
    ProcessReading,
    ProcessSeries,
    Reading,
    SegmentRecord,
    TaskRecord,
)
from skl_mmap.report._memory_report import MemoryReport, SamplingCost

__all__ = ["SCHEMA", "read_json", "write_json"]

SCHEMA = 1
_KIND = "skl_mmap memory report"


def write_json(report: MemoryReport, path: str | os.PathLike[str] | None) -> str:
    """Write a report; see `MemoryReport.to_json`."""
    content = {"kind": _KIND, "schema": SCHEMA, **dataclasses.asdict(report)}
    text = json.dumps(content, allow_nan=False, default=_as_plain)
    if path is not None:
        Path(path).write_text(text + "\n", encoding="utf-8")
    return text


def _as_plain(value: Any) -> Any:
    """Take a numpy number for what it is: records come from code that may use them."""
    return value.item()


def read_json(source: str | os.PathLike[str]) -> MemoryReport:
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
            f"{name} is no JSON ({error}), so there is no report to read. Pass what "
            "MemoryReport.to_json() has written."
        ) from error
    _check_version(content, name)
    try:
        report: MemoryReport = _build(MemoryReport, content)
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
            f"{name} is no memory report: it lacks kind={_KIND!r}. Pass what "
            "MemoryReport.to_json() has written."
        )
    schema = content.get("schema")
    if not isinstance(schema, int) or schema < 1:
        raise FileFormatError(
            f"{name} has schema={schema!r}, which is no version of a report. Write it "
            "anew with MemoryReport.to_json()."
        )
    if schema > SCHEMA:
        raise FileFormatError(
            f"{name} was written by a newer version of skl_mmap (schema {schema}, and "
            f"this version knows {SCHEMA}), so its numbers could be misread. Run: "
            "pip install --upgrade skl-mmap"
        )


def _build(kind: type[Any], content: dict[str, Any]) -> Any:
    """Make a dataclass of what JSON has kept of it."""
    values = {}
    for attribute in dataclasses.fields(kind):
        if attribute.name in content:
            build = _PARTS.get((kind, attribute.name), _freeze)
            values[attribute.name] = build(content[attribute.name])
    return kind(**values)


def _freeze(value: Any) -> Any:
    """Lists were tuples before they were written."""
    return tuple(map(_freeze, value)) if isinstance(value, list) else value


def _one(kind: type[Any]) -> Callable[[Any], Any]:
    return lambda content: None if content is None else _build(kind, content)


def _many(kind: type[Any]) -> Callable[[Any], Any]:
    return lambda contents: tuple(_build(kind, content) for content in contents)


_PARTS: dict[tuple[type[Any], str], Callable[[Any], Any]] = {
    (MemoryReport, "records"): _many(TaskRecord),
    (MemoryReport, "segments"): _many(SegmentRecord),
    (MemoryReport, "peak"): _one(Reading),
    (MemoryReport, "timeline"): _many(Reading),
    (MemoryReport, "processes"): _many(ProcessSeries),
    (MemoryReport, "group"): _one(GroupReading),
    (MemoryReport, "sampling"): _one(SamplingCost),
    (Reading, "processes"): _many(ProcessReading),
}
