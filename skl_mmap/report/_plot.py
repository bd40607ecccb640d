"""A report drawn with matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skl_mmap._units import format_bytes
from skl_mmap.report._chart import Chart, make_chart
from skl_mmap.report._svg import color_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from skl_mmap.report._memory_report import MemoryReport

__all__ = ["draw"]

_MIB = 1 << 20


def draw(report: MemoryReport) -> Figure:
    """Draw a report; see `MemoryReport.plot`."""
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
    _draw_memory(memory, report, chart)
    _draw_tasks(tasks, chart)
    _draw_cpu(cpu, chart)
    return figure


def _draw_memory(axes: Axes, report: MemoryReport, chart: Chart) -> None:
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


def _draw_tasks(axes: Axes, chart: Chart) -> None:
    for bar in chart.bars:
        width = bar.end_seconds - bar.begin_seconds
        axes.barh(
            bar.row, width, left=bar.begin_seconds, color="0.6", edgecolor="white"
        )
    axes.set_ylabel("tasks")
    axes.set_yticks([])
    axes.invert_yaxis()


def _draw_cpu(axes: Axes, chart: Chart) -> None:
    axes.plot(chart.cpu_seconds, chart.cores, color="0.2")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("cores used")
    axes.set_xlabel("seconds")
