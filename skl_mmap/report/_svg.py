"""A chart as SVG that stands for itself: no scripts, no fonts, no files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from skl_mmap._units import format_bytes
from skl_mmap.report._chart import Chart

__all__ = ["color_of", "draw_svg", "find_ticks"]

_WIDTH, _LEFT, _RIGHT = 760, 78, 14
_MEMORY_TOP, _MEMORY_HEIGHT = 12, 210
_ROW_HEIGHT, _MAX_ROW_SPACE = 9, 108
_CPU_HEIGHT = 54
_GAP = 12
_MAX_BARS = 400
_N_TICKS = 5
# Okabe and Ito's palette, which people with any kind of colour vision can tell apart.
_SHARED, _PARENT = "#56b4e9", "#e69f00"
_OTHERS = ("#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#999999")


def color_of(chart: Chart, position: int) -> str:
    """Return the colour of a layer."""
    role = chart.layers[position].role
    if role == "shared memory":
        return _SHARED
    if role == "this process":
        return _PARENT
    n_before = sum(
        layer.role not in ("shared memory", "this process")
        for layer in chart.layers[:position]
    )
    return _OTHERS[n_before % len(_OTHERS)]


def find_ticks(largest: float, *, base: int) -> list[float]:
    """Return some round numbers from 0 to just below `largest`.

    Parameters
    ----------
    largest : float
        End of the axis.
    base : {10, 2}
        Which numbers are round: those of people, or of bytes.
    """
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
    """Draw a chart.

    Parameters
    ----------
    chart : Chart
        What to draw.
    baseline_bytes : int or None
        Marked by a line: what there was before.
    copying_bytes : int or None
        Marked by a line: what copying would have needed.
    """
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
