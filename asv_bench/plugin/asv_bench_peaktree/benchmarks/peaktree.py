"""The type of benchmarks whose names start with ``peaktree_``.

asv ignores a plugin that cannot be imported, and its benchmarks vanish. So this module
imports nothing that may be missing, and what it needs to measure is imported when a
benchmark runs: an error there is that benchmark's failure, with a traceback.
"""

from __future__ import annotations

import re
from typing import Any

try:
    from asv_runner.benchmarks._base import Benchmark, _get_first_attr
except ImportError as error:
    # Anything but an ImportError, which asv would pass over in silence.
    raise RuntimeError(
        f"asv_bench_peaktree does not fit this version of asv_runner ({error}), so "
        "peaktree_ benchmarks cannot be run. Upgrade it, or uninstall it: "
        "pip install --upgrade asv_bench_peaktree"
    ) from error

__all__ = ["PeakTreeBenchmark", "export_as_benchmark"]

_DEFAULT_INTERVAL_SECONDS = 0.01


class PeakTreeBenchmark(Benchmark):
    """Peak of the committed memory of a whole process tree, in bytes.

    Parameters
    ----------
    name : str
        Of the benchmark.
    func : callable
        What is measured: a function ``peaktree_*``, or a method ``peaktree_*`` or
        ``Peaktree*``.
    attr_sources : list of object
        Where attributes are looked up: function, instance, module.

    Attributes
    ----------
    rounds : int, default=1
        In how many processes the benchmark runs, each time afresh. With three or more
        asv compares samples; with one, only their ratio.
    interval : float, default=0.01
        Seconds between two readings.
    relative : bool, default=False
        Whether what `setup` holds when the benchmark starts is subtracted.
    """

    name_regex = re.compile(r"^(Peaktree[A-Z_].+|peaktree_.+)$")

    def __init__(self, name: str, func: Any, attr_sources: list[Any]) -> None:
        super().__init__(name, func, attr_sources)
        self.type = "peaktree"
        self.unit = "bytes"
        self._is_skipped = False
        self._read_attributes()

    def _read_attributes(self) -> None:
        self.rounds = int(self._find("rounds", 1))
        self.interval = self._find("interval", _DEFAULT_INTERVAL_SECONDS)
        self.relative = bool(self._find("relative", False))

    def _find(self, name: str, default: object) -> Any:
        return _get_first_attr(self._attr_sources, name, default)

    def do_setup(self) -> bool:
        """Run the setup, unless there is nothing to measure with."""
        from asv_bench_peaktree._watch import can_measure

        if not can_measure():
            # asv's own words for a setup that raises NotImplementedError.
            print(
                "asv: skipped: this system has no /proc with RssAnon in "
                "/proc/PID/status (Linux 4.5 or newer), which readings are made of"
            )
            self._is_skipped = True
            return True
        return bool(super().do_setup())

    def do_teardown(self) -> None:
        """Run the teardown of a setup that has run."""
        if not self._is_skipped:
            super().do_teardown()

    def run(self, *param: Any) -> dict[str, Any]:
        """Run the benchmark once and measure it.

        Returns
        -------
        dict
            One sample in bytes, in the form in which asv adds up rounds.

        Raises
        ------
        ValueError
            If `interval` is out of bounds.
        RuntimeError
            If the process that reads memory cannot be started, or has died.
        """
        from asv_bench_peaktree._watch import watch

        self._read_attributes()  # those of the command line come after __init__
        with watch(self.interval) as peak:
            # Kept until the last reading, so that it counts however short the call is.
            kept = self.func(*param)
        del kept
        value = peak.growth_bytes if self.relative else peak.peak_bytes
        return {"samples": [value], "number": 1}


export_as_benchmark = [PeakTreeBenchmark]
