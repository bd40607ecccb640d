"""A measurement that is shown as a report."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skl_mmap.monitor import Measurement, measure_as
from skl_mmap.report._memory_report import MemoryReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["LiveReport", "measure"]

_TITLE = "Measured block"


@dataclass(slots=True, eq=False, repr=False)
class LiveReport(Measurement):
    """What `skl_mmap.measure` yields: the numbers of a block, shown as a report.

    It has the attributes of `skl_mmap.Measurement`, filled in when the block ends, and
    is shown, drawn and written like the `skl_mmap.MemoryReport` that `report` returns.

    Raises
    ------
    MeasurementError
        If a number is read before the block has ended, or if the sampler has died.

    Examples
    --------
    >>> import skl_mmap
    >>> with skl_mmap.measure() as report:
    ...     data = bytearray(50_000_000)
    >>> report.report().title
    'Measured block'
    """

    def report(
        self, title: str = _TITLE, *, input_bytes: int | None = None
    ) -> MemoryReport:
        """Return what was found as a value that can be kept.

        Parameters
        ----------
        title : str, default="Measured block"
            What was done.
        input_bytes : int, default=None
            Size of X, the unit of all multiples. None takes the largest array that
            was shared.

        Raises
        ------
        MeasurementError
            If the block has not ended.
        """
        return MemoryReport.from_measurement(self, title, input_bytes)

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """Write the report as JSON: see `skl_mmap.MemoryReport.to_json`."""
        return self.report().to_json(path)

    def to_frame(self, what: str = "tasks") -> Any:
        """Return a part of it: see `skl_mmap.MemoryReport.to_frame`."""
        return self.report().to_frame(what)

    def plot(self) -> Figure:
        """Draw memory and CPU use over time: see `skl_mmap.MemoryReport.plot`."""
        return self.report().plot()

    def __str__(self) -> str:
        """Tell what the block has cost, as text with a table."""
        if not self.is_finished:
            return Measurement.__str__(self)
        return str(self.report())

    def _repr_html_(self) -> str:
        """Tell what the block has cost, for notebooks."""
        if not self.is_finished:
            from html import escape

            return f"<pre>{escape(str(self))}</pre>"
        return self.report()._repr_html_()


@contextlib.contextmanager
def measure(
    *,
    interval_seconds: float = 0.01,
    method: str = "auto",
    copy_sites: bool = False,
) -> Iterator[LiveReport]:
    """Measure the memory of this process and all it starts while a block runs.

    Parameters
    ----------
    interval_seconds : float, default=0.01
        Time between two readings, from 0.001 to 60. It becomes longer, up to 0.02,
        where readings would take more than 1.5 % of all cores.
    method : {"auto", "committed", "uss"}, default="auto"
        What to read. ``"committed"``: private memory of all processes plus files in
        memory, each once (Linux). ``"uss"``: sum of unique set sizes, which leaves
        shared memory out; needs psutil. ``"auto"``: the former where there is a
        ``/proc``, otherwise the latter; `Measurement.method` says which.

    copy_sites : bool, default=False
        Whether tasks of the backend "mmap" name the lines of code that ask for large
        blocks of memory. Small arrays of NumPy take four times as long then; see
        `skl_mmap.check_copies` for more about one estimator.

    Yields
    ------
    LiveReport
        A `skl_mmap.Measurement` that is shown, drawn and written like a
        `skl_mmap.MemoryReport`. Filled in when the block ends, also if it raises.

    Raises
    ------
    InvalidParameterError
        If a parameter cannot be used.
    MeasurementError
        If the sampler cannot be started; the block is then not run. If it dies while
        the block runs, the block's result is not lost: the error is raised when a
        number of the report is read.

    Notes
    -----
    Starting takes about 0.1 s, before the first reading. A reading of five processes
    takes about 0.35 ms of CPU time: 3.6 % of a core at 10 ms. A peak that is shorter
    than the interval can be missed. Blocks may be nested and run in
    several threads; each has a sampler of its own, and no sampler is counted.

    Committed memory is the sum of RssAnon and VmSwap (proc_pid_status(5)) and the
    allocated blocks of all files in memory that the tree has open. Summed RSS would
    count shared pages once per process, and PSS takes 12 ms per GB and process and
    misses a memfd that nobody has mapped. In a process that was forked without exec,
    only the pages that are no longer its parent's are counted; in its first quarter
    of a second, only its growth.

    Not covered: huge pages of hugetlbfs, page tables, GPU memory. Shared memory that
    has no file descriptor (System V, ``MAP_SHARED | MAP_ANONYMOUS``) counts only as
    far as one process has more of it than there is in all files together.

    Examples
    --------
    >>> import skl_mmap
    >>> with skl_mmap.measure() as report:
    ...     data = bytearray(50_000_000)
    >>> 40_000_000 < report.peak_growth_bytes < 60_000_000
    True
    >>> report.report().holders[0].role
    'this process'
    """
    with measure_as(
        LiveReport,
        interval_seconds=interval_seconds,
        method=method,
        copy_sites=copy_sites,
    ) as report:
        yield report
