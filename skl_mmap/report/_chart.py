"""What is drawn of a report, apart from how: in `_svg` and `_plot`."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skl_mmap.exceptions import MeasurementError
from skl_mmap.report._holders import OTHER, PARENT, SHARED, WORKER, name_role

if TYPE_CHECKING:
    from skl_mmap.report._memory_report import MemoryReport

__all__ = ["Bar", "Chart", "Layer", "make_chart"]

# More layers than colours could not be told apart.
_MAX_LAYERS = 10
# CPU time comes in steps of 10 ms: shorter windows would show these.
_MIN_WINDOW_SECONDS = 0.2
_N_WINDOWS = 100
_ORDER = {SHARED: 0, PARENT: 1, WORKER: 2, OTHER: 3}


@dataclass(frozen=True, slots=True)
class Layer:
    """The memory of one process, or all shared memory, over time.

    Attributes
    ----------
    role, label : str
        What it has to do with the job, and what to call it.
    n_bytes : tuple of int
        Its memory at each moment of the chart.
    """

    role: str
    label: str
    n_bytes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Bar:
    """A batch of tasks: when it ran, in which row of the chart, and its label."""

    begin_seconds: float
    end_seconds: float
    row: int
    label: str


@dataclass(frozen=True, slots=True)
class Chart:
    """What is drawn of a report.

    Attributes
    ----------
    seconds : tuple of float
        Moments of the layers.
    layers : tuple of Layer
        From the lowest to the highest: shared memory, this process, workers, others.
    bars : tuple of Bar
        Batches of tasks, a row for each worker.
    cpu_seconds, cores : tuple of float
        Moments of CPU use, and how many cores the tree used on average since the last.
    """

    seconds: tuple[float, ...]
    layers: tuple[Layer, ...]
    bars: tuple[Bar, ...]
    cpu_seconds: tuple[float, ...]
    cores: tuple[float, ...]

    @property
    def totals(self) -> tuple[int, ...]:
        """Memory of all layers at each moment."""
        columns = zip(*(layer.n_bytes for layer in self.layers), strict=True)
        return tuple(map(sum, columns))

    @property
    def n_rows(self) -> int:
        """How many rows of bars there are."""
        return max((bar.row + 1 for bar in self.bars), default=0)


def make_chart(report: MemoryReport) -> Chart:
    """Work out what is drawn of a report.

    Raises
    ------
    MeasurementError
        If nothing was measured over time.
    """
    if not report.timeline or not report.processes:
        raise MeasurementError(
            "This report has no readings over time, so there is nothing to draw: the "
            "process that reads memory has died, or the report was made by hand. "
            "Measure again."
        )
    moments = {moment for series in report.processes for moment in series.seconds}
    seconds = tuple(sorted(moments))
    layers = [_shared_layer(report, seconds), *_process_layers(report, seconds)]
    layers = [layer for layer in layers if any(layer.n_bytes)]
    cpu_seconds, cores = _cpu_use(report)
    return Chart(seconds, tuple(layers), _bars(report), cpu_seconds, cores)


def _shared_layer(report: MemoryReport, seconds: tuple[float, ...]) -> Layer:
    times = [reading.seconds for reading in report.timeline]
    sizes = []
    for moment in seconds:
        right = min(bisect.bisect_left(times, moment), len(times) - 1)
        left = max(right - 1, 0)
        is_left = moment - times[left] < times[right] - moment
        sizes.append(report.timeline[left if is_left else right].shared_bytes)
    return Layer(SHARED, SHARED, tuple(sizes))


def _process_layers(report: MemoryReport, seconds: tuple[float, ...]) -> list[Layer]:
    """Return a layer for each process, the smallest ones together."""
    layers = []
    for series in report.processes:
        role = name_role(report, series.pid)
        by_moment = dict(zip(series.seconds, series.anonymous_bytes, strict=True))
        label = role if role == PARENT else f"{role} {series.pid}"
        if role == OTHER and series.name:
            label = f"{series.name} {series.pid}" if series.pid else series.name
        sizes = tuple(by_moment.get(moment, 0) for moment in seconds)
        layers.append(Layer(role, label, sizes))
    layers.sort(key=lambda layer: -max(layer.n_bytes))
    small = layers[_MAX_LAYERS:]
    if small:
        columns = zip(*(layer.n_bytes for layer in small), strict=True)
        label = f"{len(small)} smaller processes"
        layers[_MAX_LAYERS:] = [Layer(OTHER, label, tuple(map(sum, columns)))]
    return sorted(layers, key=lambda layer: _ORDER[layer.role])


def _bars(report: MemoryReport) -> tuple[Bar, ...]:
    rows: dict[int, int] = {}
    bars = []
    for record in sorted(report.records, key=lambda record: record.end_seconds or 0.0):
        if record.end_seconds is not None:
            row = rows.setdefault(record.pid, len(rows))
            begin = max(0.0, record.end_seconds - record.seconds)
            bars.append(Bar(begin, record.end_seconds, row, record.label))
    return tuple(bars)


def _cpu_use(report: MemoryReport) -> tuple[tuple[float, ...], tuple[float, ...]]:
    first, *later = report.timeline
    whole = report.timeline[-1].seconds - first.seconds
    window = max(_MIN_WINDOW_SECONDS, whole / _N_WINDOWS)
    times, cores = [], []
    last = first
    for reading in later:
        if reading.seconds - last.seconds >= window:
            used = reading.cpu_seconds - last.cpu_seconds
            times.append(reading.seconds)
            cores.append(max(0.0, used) / (reading.seconds - last.seconds))
            last = reading
    return tuple(times), tuple(cores)
