"""A report as a picture: SVG that stands for itself, or drawn with matplotlib.

::

    MemoryReport --> Chart: layers, bars, lines --> draw_svg: no scripts, no fonts
                                                --> plot: matplotlib
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from skl_mmap._units import format_bytes
from skl_mmap.exceptions import MeasurementError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from skl_mmap.report._memory_report import MemoryReport

# From the lowest layer to the highest.
_ORDER = ("shared memory", "this process", "worker", "other process")
_SHARED, _PARENT, _WORKER, _OTHER = _ORDER
# Okabe and Ito's palette, which people with any kind of colour vision can tell apart.
_COLORS = {_SHARED: "#56b4e9", _PARENT: "#e69f00"}
_MORE_COLORS = ("#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#999999")
# More layers than colours could not be told apart.
_MAX_LAYERS = 10
# CPU time comes in steps of 10 ms: shorter windows would show these.
_MIN_WINDOW_SECONDS = 0.2
_N_WINDOWS = 100

# Sizes in the SVG, in its own units.
_WIDTH, _LEFT, _RIGHT = 760, 78, 14
_MEMORY_TOP, _MEMORY_HEIGHT = 12, 210
_ROW_HEIGHT, _MAX_ROW_SPACE = 9, 108
_CPU_HEIGHT = 54
_GAP = 12
_MAX_BARS = 400
_N_TICKS = 5
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Layer:
    """The memory of one process, or all shared memory, at each moment of a chart."""

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
    """Layers, bars and lines that are drawn of a report.

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
    """Work out what is drawn; MeasurementError if nothing was measured over time."""
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
    return Layer(_SHARED, _SHARED, tuple(sizes))


def _process_layers(report: MemoryReport, seconds: tuple[float, ...]) -> list[Layer]:
    """Return a layer for each process, the smallest ones together."""
    layers = []
    for series in report.processes:
        role = report.role_of(series.pid)
        by_moment = dict(zip(series.seconds, series.anonymous_bytes, strict=True))
        label = role if role == _PARENT else f"{role} {series.pid}"
        if role == _OTHER and series.name:
            label = f"{series.name} {series.pid}" if series.pid else series.name
        sizes = tuple(by_moment.get(moment, 0) for moment in seconds)
        layers.append(Layer(role, label, sizes))
    layers.sort(key=lambda layer: -max(layer.n_bytes))
    small = layers[_MAX_LAYERS:]
    if small:
        columns = zip(*(layer.n_bytes for layer in small), strict=True)
        label = f"{len(small)} smaller processes"
        layers[_MAX_LAYERS:] = [Layer(_OTHER, label, tuple(map(sum, columns)))]
    return sorted(layers, key=lambda layer: _ORDER.index(layer.role))


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


def color_of(chart: Chart, position: int) -> str:
    """Return the colour of a layer."""
    role = chart.layers[position].role
    if role in _COLORS:
        return _COLORS[role]
    n_before = sum(layer.role not in _COLORS for layer in chart.layers[:position])
    return _MORE_COLORS[n_before % len(_MORE_COLORS)]


def find_ticks(largest: float, *, base: int) -> list[float]:
    """Return some numbers from 0 to just below `largest`, round in base 10 or 2."""
    if largest <= 0:
        return [0.0]
    steps = (1, 2, 5) if base == 10 else (1, 2, 4, 8)
    size, factor = (1e-3, 10) if base == 10 else (1.0, 16)
    while True:
        for step in steps:
            if largest <= step * size * _N_TICKS:
                n_ticks = int(largest / (step * size)) + 1
                return [i * step * size for i in range(n_ticks)]
        size *= factor


def draw_svg(
    chart: Chart, *, baseline_bytes: int | None, copying_bytes: int | None
) -> str:
    """Draw a chart as SVG, with lines at what there was and what copies would need."""
    end = max(chart.seconds[-1], *(bar.end_seconds for bar in chart.bars), 1e-3)
    top = 1.05 * max(*chart.totals, copying_bytes or 0, 1)
    rows_height = min(chart.n_rows * _ROW_HEIGHT, _MAX_ROW_SPACE)
    rows_top = _MEMORY_TOP + _MEMORY_HEIGHT + _GAP
    cpu_top = rows_top + (rows_height + _GAP if chart.n_rows else 0)
    has_cpu = len(chart.cores) > 1
    bottom = cpu_top + _CPU_HEIGHT if has_cpu else cpu_top - _GAP
    memory = _Area(end, top, _MEMORY_TOP, _MEMORY_HEIGHT)
    begin = (
        f'<svg viewBox="0 0 {_WIDTH} {bottom + 34}" role="img" '
        'xmlns="http://www.w3.org/2000/svg" font-size="11" fill="currentColor">'
    )
    parts = [
        begin,
        "<title>Committed memory over time, by process</title>",
        *_draw_memory_axis(memory),
        *_draw_layers(chart, memory),
        *_draw_level(memory, baseline_bytes, "before"),
        *_draw_level(memory, copying_bytes, "with copies (estimate)"),
        *_draw_bars(chart, end, rows_top, rows_height),
    ]
    if has_cpu:
        parts += _draw_cpu(chart, end, cpu_top)
    parts += _draw_seconds(end, bottom)
    return "".join([*parts, "</svg>"])


class _Area:
    """Where numbers lie in the picture: time from the left, sizes from below."""

    def __init__(self, end: float, top: float, y: int, height: int) -> None:
        self.end, self.top, self._y, self.height = end, top, y, height

    def x(self, seconds: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * seconds / self.end

    def y(self, value: float) -> float:
        return self._y + self.height * (1 - value / self.top)

    def points(self, seconds: Iterable[float], values: Iterable[float]) -> list[str]:
        pairs = zip(seconds, values, strict=True)
        return [f"{self.x(t):.1f},{self.y(value):.1f}" for t, value in pairs]


def _draw_layers(chart: Chart, area: _Area) -> list[str]:
    parts = []
    below: Sequence[int] = [0] * len(chart.seconds)
    for position, layer in enumerate(chart.layers):
        above = [a + b for a, b in zip(below, layer.n_bytes, strict=True)]
        outline = area.points(chart.seconds, above)
        outline += area.points(chart.seconds, below)[::-1]
        text = f"{layer.label}: {format_bytes(max(layer.n_bytes))} at most"
        parts.append(
            f'<polygon points="{" ".join(outline)}" fill="{color_of(chart, position)}" '
            f'fill-opacity="0.85"><title>{escape(text)}</title></polygon>'
        )
        below = above
    return parts


def _draw_memory_axis(area: _Area) -> list[str]:
    parts = []
    for size in find_ticks(area.top, base=2):
        y = area.y(size)
        parts.append(_line(_LEFT, y, _WIDTH - _RIGHT, y, opacity=0.15))
        parts.append(_text(_LEFT - 6, y + 4, format_bytes(size), anchor="end"))
    return parts


def _draw_level(area: _Area, n_bytes: int | None, label: str) -> list[str]:
    if n_bytes is None:
        return []
    y = area.y(n_bytes)
    text = f"{label}: {format_bytes(n_bytes)}"
    return [
        _line(_LEFT, y, _WIDTH - _RIGHT, y, opacity=0.8, dash="5 4"),
        _text(_WIDTH - _RIGHT, y - 4, text, anchor="end"),
    ]


def _draw_bars(chart: Chart, end: float, top: int, height: int) -> list[str]:
    if not chart.n_rows:
        return []
    area = _Area(end, 1.0, top, height)
    row_height = height / chart.n_rows
    parts = [_text(_LEFT - 6, top + height / 2 + 4, "tasks", anchor="end")]
    # The longest: what is left out would be too narrow to be seen.
    longest = sorted(chart.bars, key=lambda bar: bar.begin_seconds - bar.end_seconds)
    for bar in longest[:_MAX_BARS]:
        x = area.x(bar.begin_seconds)
        width = max(area.x(bar.end_seconds) - x - 0.5, 0.5)
        seconds = bar.end_seconds - bar.begin_seconds
        text = f"{bar.label or 'a task'}: {seconds:.2f} s"
        parts.append(
            f'<rect x="{x:.1f}" y="{top + bar.row * row_height:.1f}" '
            f'width="{width:.1f}" height="{max(row_height - 1, 0.5):.1f}" '
            f'fill-opacity="0.5"><title>{escape(text)}</title></rect>'
        )
    return parts


def _draw_cpu(chart: Chart, end: float, top: int) -> list[str]:
    area = _Area(end, max(1.0, 1.05 * max(chart.cores)), top, _CPU_HEIGHT)
    line = " ".join(area.points(chart.cpu_seconds, chart.cores))
    highest = find_ticks(area.top, base=10)[-1]
    return [
        _line(_LEFT, area.y(0), _WIDTH - _RIGHT, area.y(0), opacity=0.4),
        _line(_LEFT, area.y(highest), _WIDTH - _RIGHT, area.y(highest), opacity=0.15),
        _text(_LEFT - 6, area.y(highest) + 4, f"{highest:g}", anchor="end"),
        _text(_LEFT - 6, area.y(0) + 2, "cores used", anchor="end"),
        f'<polyline points="{line}" fill="none" stroke="currentColor"/>',
    ]


def _draw_seconds(end: float, bottom: int) -> list[str]:
    area = _Area(end, 1.0, 0, bottom)
    return [
        _text(area.x(seconds), bottom + 16, f"{seconds:g} s", anchor="middle")
        for seconds in find_ticks(end, base=10)
    ]


def _line(
    x1: float, y1: float, x2: float, y2: float, *, opacity: float, dash: str = ""
) -> str:
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
        f'stroke="currentColor" stroke-opacity="{opacity}"{dashes}/>'
    )


def _text(x: float, y: float, text: str, *, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def plot(report: MemoryReport) -> Figure:
    """Draw a report with matplotlib; see `MemoryReport.plot`."""
    chart = make_chart(report)
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            "plot() needs matplotlib, which is not installed. Run: "
            "pip install 'skl-mmap[plot]'"
        ) from error
    heights = [4.0, 0.3 + 0.12 * min(chart.n_rows, 16), 1.0]
    figure, (memory, tasks, cpu) = plt.subplots(
        3,
        sharex=True,
        figsize=(8.0, 2.0 + sum(heights[1:]) + 2.5),
        height_ratios=heights,
        layout="constrained",
    )
    figure.suptitle(report.title)
    _plot_memory(memory, report, chart)
    _plot_tasks(tasks, chart)
    _plot_cpu(cpu, chart)
    return figure


def _plot_memory(axes: Axes, report: MemoryReport, chart: Chart) -> None:
    sizes = [[n / _MIB for n in layer.n_bytes] for layer in chart.layers]
    labels = [layer.label for layer in chart.layers]
    colors = [color_of(chart, position) for position in range(len(labels))]
    axes.stackplot(chart.seconds, *sizes, labels=labels, colors=colors, alpha=0.85)
    baseline_bytes, copying_bytes = report.baseline_bytes, report.copying_growth_bytes
    if baseline_bytes is not None:
        axes.axhline(baseline_bytes / _MIB, color="0.3", dashes=(5, 3), label="before")
        if copying_bytes is not None:
            level = (baseline_bytes + copying_bytes) / _MIB
            label = "with copies (estimate)"
            axes.axhline(level, color="0.3", dashes=(1, 2), label=label)
    if report.peak is not None:
        place = report.peak.seconds, report.peak.committed_bytes / _MIB
        axes.annotate(
            f"peak {format_bytes(report.peak.committed_bytes)}",
            place,
            xytext=(0, 5),
            textcoords="offset points",
            ha="right" if place[0] > chart.seconds[-1] / 2 else "left",
        )
    axes.set_ylabel("committed memory (MiB)")
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize="small")


def _plot_tasks(axes: Axes, chart: Chart) -> None:
    for bar in chart.bars:
        width = bar.end_seconds - bar.begin_seconds
        axes.barh(
            bar.row, width, left=bar.begin_seconds, color="0.6", edgecolor="white"
        )
    axes.set_ylabel("tasks")
    axes.set_yticks([])
    axes.invert_yaxis()


def _plot_cpu(axes: Axes, chart: Chart) -> None:
    axes.plot(chart.cpu_seconds, chart.cores, color="0.2")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("cores used")
    axes.set_xlabel("seconds")
