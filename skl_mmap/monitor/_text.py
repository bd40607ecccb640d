"""A measurement in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skl_mmap._units import format_bytes

if TYPE_CHECKING:
    from skl_mmap.monitor._measurement import Measurement, Reading

__all__ = ["describe", "name_peak"]

_HEADLINES = {
    "committed": "Committed memory of the process tree (shared memory counted once)",
    "uss": "Unique set sizes of the process tree (shared memory left out)",
}


def name_peak(measurement: Measurement) -> str:
    """Write the peak of a measurement in half a line."""
    if measurement.problem is not None:
        return "no numbers" if measurement.is_finished else "not finished"
    return (
        f"peak {format_bytes(measurement.peak_bytes)}, "
        f"{format_bytes(measurement.peak_growth_bytes)} above the start"
    )


def describe(measurement: Measurement) -> str:
    """Write a measurement as text.

    Parameters
    ----------
    measurement : Measurement
        Finished or not.

    Returns
    -------
    str
        Several lines without a newline at the end.
    """
    lines = [_HEADLINES[measurement.method]]
    if measurement.problem is not None:
        lines += [f"  {measurement.problem}", *_describe_tasks(measurement)]
        return "\n".join(lines)
    growth = format_bytes(measurement.peak_growth_bytes)
    lines += [
        _row("before", format_bytes(measurement.baseline_bytes)),
        _row("peak", f"{format_bytes(measurement.peak_bytes)}, {growth} more"),
        _row("", _describe_peak(measurement.peak)),
        *_describe_tasks(measurement),
        _row("readings", _describe_readings(measurement)),
        _row("sampler", _describe_sampler(measurement)),
    ]
    lines += [_row("note", note) for note in measurement.notes]
    return "\n".join(lines)


def _row(label: str, text: str) -> str:
    return f"  {label:<10}{text}"


def _describe_peak(peak: Reading) -> str:
    processes = _count(peak.n_processes, "process", "processes")
    private = format_bytes(peak.anonymous_bytes)
    shared = format_bytes(peak.shared_bytes)
    return (
        f"after {peak.seconds:.2f} s in {processes}: {private} private, {shared} shared"
    )


def _describe_tasks(measurement: Measurement) -> list[str]:
    if not measurement.tasks:
        return []
    text = (
        f"{_count(len(measurement.tasks), 'batch', 'batches')}: "
        f"{format_bytes(measurement.mapped_bytes)} of folds mapped, "
        f"{format_bytes(measurement.copied_bytes)} copied"
    )
    reasons = [
        _row("", f"{format_bytes(n_bytes)} copied: {reason}")
        for reason, n_bytes in measurement.copy_reasons.items()
    ]
    return [_row("tasks", text), *reasons]


def _describe_readings(measurement: Measurement) -> str:
    return (
        f"{measurement.n_readings} in {measurement.wall_seconds:.2f} s, "
        f"one every {1000 * measurement.interval_seconds:g} ms asked for"
    )


def _describe_sampler(measurement: Measurement) -> str:
    share = measurement.sampler_cpu_seconds / max(measurement.wall_seconds, 1e-9)
    return (
        f"{measurement.sampler_cpu_seconds:.2f} s of CPU time ({share:.0%} of a core), "
        f"{format_bytes(measurement.sampler_bytes)}, not counted above"
    )


def _count(number: int, singular: str, plural: str) -> str:
    return f"{number} {singular if number == 1 else plural}"
