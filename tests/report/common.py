"""Reports whose numbers are known."""

from __future__ import annotations

from typing import Any

from skl_mmap.memory import Reason
from skl_mmap.monitor import (
    CallRecord,
    GroupReading,
    ProcessReading,
    ProcessSeries,
    Reading,
    SamplingCost,
    SegmentRecord,
    TaskRecord,
)
from skl_mmap.report import MemoryReport

MIB = 1 << 20
SCATTERED = Reason.SCATTERED.name
SCATTERED_TEXT = Reason.SCATTERED.value
PARENT, FIRST, SECOND, TRACKER = 10, 11, 12, 13


def make_record(label: str = "Ridge, fold 1 of 2", **given: Any) -> TaskRecord:
    reasons = given.pop("reasons", {})
    defaults = {"pid": 1, "seconds": 0.5, "mapped_bytes": 100 * MIB}
    return TaskRecord(
        **{**defaults, **given},
        label=label,
        copied_bytes=sum(reasons.values()),
        copy_reasons=reasons,
    )


def make_call(**given: Any) -> CallRecord:
    """A call of which nothing is known but that its folds can be arranged."""
    defaults = {"n_splits": 5, "is_partition": True, "can_reorder": True}
    return CallRecord("mmap", 3, **{**defaults, "has_target": True, **given})


def make_report(*records: TaskRecord, **given: Any) -> MemoryReport:
    defaults = {
        "title": "Memmapped(Stack)",
        "input_bytes": 100 * MIB,
        "baseline_bytes": 50 * MIB,
        "peak_bytes": 300 * MIB,
        "wall_seconds": 1.5,
    }
    return MemoryReport(**{**defaults, **given}, records=records)


def make_reading(seconds: float, private: int, shared: int, cpu: float) -> Reading:
    total = (private + shared) * MIB
    return Reading(seconds, total, private * MIB, shared * MIB, 7, 3, cpu_seconds=cpu)


def make_series(pid: int, start: float, *mib: int) -> ProcessSeries:
    seconds = tuple(start + i for i in range(len(mib)))
    cpu = tuple(0.5 * i for i in range(len(mib)))
    return ProcessSeries(pid, "python", seconds, tuple(n * MIB for n in mib), cpu)


def make_full_report(**given: Any) -> MemoryReport:
    """A job of four seconds with two workers: 50 MiB before, 300 MiB at 2 s."""
    processes = tuple(
        ProcessReading(pid, "python", n * MIB, 0, 0)
        for pid, n in ((FIRST, 90), (SECOND, 50), (PARENT, 50), (TRACKER, 10))
    )
    peak = Reading(2.0, 300 * MIB, 200 * MIB, 100 * MIB, 7, 4, processes, 2.5)
    timeline = (
        make_reading(0.0, 50, 0, 0.5),
        make_reading(1.0, 90, 100, 1.0),
        Reading(2.0, 300 * MIB, 200 * MIB, 100 * MIB, 7, 4, cpu_seconds=2.5),
        make_reading(3.0, 100, 100, 4.0),
        make_reading(4.0, 50, 0, 4.5),
    )
    records = (
        make_record(pid=FIRST, seconds=1.5, end_seconds=2.5, mapped_bytes=80 * MIB),
        make_record(
            "Ridge, fold 2 of 2",
            pid=SECOND,
            seconds=1.0,
            end_seconds=2.25,
            mapped_bytes=70 * MIB,
            reasons={SCATTERED: 30 * MIB},
        ),
        make_record("Lasso", pid=FIRST, seconds=0.75, end_seconds=3.5),
    )
    defaults = {
        "title": "Memmapped(Stack)",
        "input_bytes": 100 * MIB,
        "baseline_bytes": 50 * MIB,
        "peak_bytes": 300 * MIB,
        "wall_seconds": 4.0,
        "records": records,
        "notes": ("so <be> it",),
        "segments": (
            SegmentRecord("float64 (13107200,)", 100 * MIB, "memory", inode=(1, 5)),
        ),
        "pid": PARENT,
        "peak": peak,
        "timeline": timeline,
        "processes": (
            make_series(PARENT, 0.0, 50, 50, 50, 50, 50),
            make_series(FIRST, 1.0, 30, 90, 20),
            make_series(SECOND, 1.0, 10, 50, 20),
            make_series(TRACKER, 2.0, 10, 10),
        ),
        "group": GroupReading("/sys/x", 2, 60 * MIB, 320 * MIB, None, 512 * MIB, 1, 0),
        "sampling": SamplingCost(0.01, 390, 0.0005, 0.2, 3 * MIB),
        "calls": (
            make_call(options={"store": "disk"}, conversions={"Lasso": "float32 C"}),
        ),
    }
    return MemoryReport(**{**defaults, **given})
