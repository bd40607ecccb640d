"""Results as tables and sentences: on a terminal, for the documentation, for README."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from skl_mmap._tables import format_table

from .runs import BACKENDS, Results

__all__ = [
    "JobRow",
    "Summary",
    "format_line",
    "format_markdown",
    "format_rst",
    "format_text",
    "replace_paragraph",
    "write_table",
]

HEAD = (
    "job",
    "equal",
    *BACKENDS,
    "mmap / loky",
    "with workers",
    "time",
    "at the peak",
    "in a task",
)
_ALIGN = "<<>>>>>><<"
_LINE = "{:<28} {:<5} {:>6} {:>9} {:>6} {:>11} {:>12} {:>6}  {:<16} {}"
_WIDTH = 88
_GOOD_RATIO = 0.7
# Of X: less is not worth a word.
_MIN_SHARE = 0.05
# Of a core, busy with something else: more, and times say little about the backends.
_CALM_CORES = 0.25
BEGIN = "<!-- written by: tox -e corpus -- --publish -->"
END = "<!-- end of what is written -->"


@dataclass(frozen=True, slots=True)
class JobRow:
    """A line of the table.

    Attributes
    ----------
    name, title : str
        Of the job.
    is_equal : bool or None
        Whether the result under "mmap" is that under "loky"; None if not known.
    growths : dict of str to float
        By backend, the growth in multiples of X.
    ratio : float or None
        The growth under "mmap", over that under "loky".
    whole_ratio : float or None
        The same with the interpreters of the workers.
    wall_ratio : float or None
        The same of time.
    peak : str
        Under "mmap", multiples of X in this process, in shared memory, in workers.
    task : str
        Multiples of X that one task has copied of its folds, why, and that it has made
        for itself.
    problem : str
        Why something is missing.
    """

    name: str
    title: str
    is_equal: bool | None = None
    growths: dict[str, float] | None = None
    ratio: float | None = None
    whole_ratio: float | None = None
    wall_ratio: float | None = None
    peak: str = ""
    task: str = ""
    problem: str = ""

    @classmethod
    def of(cls, results: Results, name: str) -> JobRow:
        """Make the line of a job."""
        title = results.titles[name]
        if name in results.skipped:
            return cls(name, title, problem=f"skipped: {results.skipped[name]}")
        errors = results.errors.get(name, {})
        problem = "; ".join(
            f"{backend}: {_last_line(text)}" for backend, text in errors.items()
        )
        unequal = results.find_unequal(name, "mmap")
        if unequal:
            problem = "; ".join(
                filter(None, [problem, f"differs: {', '.join(unequal)}"])
            )
        return cls(
            name,
            title,
            is_equal=None if unequal is None else not unequal,
            growths=_list_growths(results, name),
            ratio=_over_loky(results, name, "growth_bytes"),
            whole_ratio=_over_loky(results, name, "growth_bytes", "interpreter_bytes"),
            wall_ratio=_over_loky(results, name, "wall_seconds"),
            peak=_describe_peak(results, name),
            task=_describe_task(results, name),
            problem=problem,
        )

    def to_cells(self, *, has_times: bool) -> list[str]:
        """Write the cells below `HEAD`; times only where they say something."""
        if not self.growths:
            return [self.name, "", *[""] * (len(HEAD) - 3), self.problem]
        equal = {None: "", True: "yes", False: "NO"}[self.is_equal]
        return [
            self.name,
            equal,
            *(_write(self.growths.get(backend), "{:.1f}") for backend in BACKENDS),
            _write(self.ratio),
            _write(self.whole_ratio),
            _write(self.wall_ratio if has_times else None),
            self.peak,
            "; ".join(filter(None, [self.task, self.problem])),
        ]


def _last_line(text: str) -> str:
    first, *others = text.strip().splitlines()
    # A run that took too long says so first; an exception is named last.
    return first if first.startswith("no result") or not others else others[-1]


def _write(value: float | None, how: str = "{:.2f}") -> str:
    return "" if value is None else how.format(value)


def _list_growths(results: Results, name: str) -> dict[str, float]:
    growths = {}
    for backend in BACKENDS:
        growth = results.median(name, backend, "growth_bytes")
        size = results.median(name, backend, "data_bytes")
        if growth is not None and size is not None:
            growths[backend] = growth / size
    return growths


def _over_loky(results: Results, name: str, *attributes: str) -> float | None:
    """Return a figure under "mmap" over that under "loky"; None if one is missing."""
    sums = []
    for backend in ("mmap", BACKENDS[0]):
        values = [results.median(name, backend, each) for each in attributes]
        if None in values:
            return None
        sums.append(sum(value for value in values if value is not None))
    ours, theirs = sums
    return ours / theirs if theirs > 0 else None


def _describe_peak(results: Results, name: str) -> str:
    parts = [
        results.median(name, "mmap", each)
        for each in ("own_bytes", "shared_bytes", "worker_bytes")
    ]
    size = results.median(name, "mmap", "data_bytes")
    if size is None:
        return ""
    # A sum, so that little that was given back is not "-0.0".
    return " + ".join(f"{round((part or 0) / size, 1) + 0.0:.1f}" for part in parts)


def _describe_task(results: Results, name: str) -> str:
    """Say what the largest task had in private memory, and why."""
    costs = results.costs.get(name, {}).get("mmap", [])
    if not costs:
        return ""
    cost = costs[0]
    if cost.task_copied_bytes is None or cost.task_private_bytes is None:
        return "not known"
    copied = cost.task_copied_bytes / cost.data_bytes
    made = cost.task_private_bytes / cost.data_bytes
    parts = []
    if copied >= _MIN_SHARE:
        reason = next(iter(cost.copy_reasons)).partition(":")[0]
        parts.append(f"folds {copied:.1f} ({reason.replace('_', ' ').lower()})")
    if made >= _MIN_SHARE:
        parts.append(f"made {made:.1f}")
    return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Summary:
    """What all rows come to."""

    rows: tuple[JobRow, ...]
    results: Results

    @classmethod
    def of(cls, results: Results) -> Summary:
        """Make a row for each job."""
        return cls(tuple(JobRow.of(results, name) for name in results.titles), results)

    @property
    def measured(self) -> list[JobRow]:
        """Rows that have a ratio."""
        return [row for row in self.rows if row.ratio is not None]

    @property
    def other_cores(self) -> float:
        """How many cores were busy with something else, at the median."""
        return statistics.median(
            cost.other_cores
            for backends in self.results.costs.values()
            for costs in backends.values()
            for cost in costs
        )

    @property
    def is_calm(self) -> bool:
        """Whether times say something."""
        return self.other_cores <= _CALM_CORES

    @property
    def is_good(self) -> bool:
        """Whether all jobs have run, with equal results if they must be equal."""
        may_differ = self.results.settings.options.get("row_order") == "any"
        return not any(self.results.errors.values()) and (
            may_differ or all(row.is_equal is not False for row in self.rows)
        )

    def list_sentences(self) -> list[str]:
        """Say what the jobs have cost, one sentence for each figure."""
        rows = self.measured
        if not rows:
            return ["Nothing has been measured."]
        settings = self.results.settings
        n_equal = sum(row.is_equal is True for row in rows)
        ratios = [row.ratio for row in rows if row.ratio is not None]
        n_good = sum(ratio <= _GOOD_RATIO for ratio in ratios)
        options = "".join(f", {k}={v!r}" for k, v in settings.options.items())
        whole = (
            f"{len(rows)} jobs, X of {settings.n_bytes / 1e6:.0f} MB, "
            f"{settings.n_jobs} workers{options}: results equal those of loky bit for "
            f"bit in {n_equal}."
        )
        growth = (
            f"Growth above warm workers, mmap over loky: median "
            f"{statistics.median(ratios):.2f}, at most {_GOOD_RATIO} in {n_good} of "
            f"{len(rows)}, {_worst(rows, 'ratio')}."
        )
        with_workers = (
            f"With the interpreters of the workers: median "
            f"{_median(rows, 'whole_ratio'):.2f}, {_worst(rows, 'whole_ratio')}."
        )
        return [whole, growth, with_workers, self._describe_times()]

    def _describe_times(self) -> str:
        rows = self.measured
        if self.is_calm:
            return (
                f"Time, mmap over loky: median {_median(rows, 'wall_ratio'):.2f}, "
                f"{_worst(rows, 'wall_ratio')}."
            )
        return (
            f"Other processes kept {self.other_cores:.1f} of "
            f"{self.results.machine['cores']} cores busy meanwhile, so that times say "
            "nothing and are left out."
        )

    def describe_origin(self) -> str:
        """Say when the figures were found, and with which versions."""
        machine = self.results.machine
        versions = ", ".join(f"{k} {v}" for k, v in machine["versions"].items())
        return (
            f"Measured on {self.results.date}, {machine['cores']} cores, "
            f"{machine['system']}, Python {machine['python']}, {versions}."
        )

    def to_table(self) -> list[list[str]]:
        """Write the head and all rows."""
        return [
            list(HEAD),
            *(row.to_cells(has_times=self.is_calm) for row in self.rows),
        ]


def _median(rows: Iterable[JobRow], name: str) -> float:
    values = (getattr(row, name) for row in rows)
    return statistics.median(value for value in values if value is not None)


def _worst(rows: Sequence[JobRow], name: str) -> str:
    known = [row for row in rows if getattr(row, name) is not None]
    row = max(known, key=lambda row: getattr(row, name))
    return f"worst {getattr(row, name):.2f} (`{row.name}`)"


def format_line(row: JobRow | None) -> str:
    """Write a line while the widths of the others are not known; None for the head."""
    cells = list(HEAD) if row is None else row.to_cells(has_times=True)
    return _LINE.format(*cells).rstrip()


def format_text(summary: Summary) -> str:
    """Write the table and the sentences as plain text."""
    lines = [format_table(summary.to_table(), align=_ALIGN), ""]
    return "\n".join([*lines, *summary.list_sentences(), summary.describe_origin()])


def format_rst(summary: Summary) -> str:
    """Write sentences and table to be included in a page."""
    lines = [".. Written by: tox -e corpus -- --publish", ""]
    lines += [_wrap(sentence, "* ") for sentence in summary.list_sentences()]
    lines += ["", _wrap(summary.describe_origin()), "", ".. list-table::"]
    lines += ["    :header-rows: 1", "    :widths: auto", ""]
    titles = {row.name: row.title for row in summary.rows}
    for cells in summary.to_table():
        name = cells[0]
        if name in titles:
            cells[0] = f"{titles[name]} (`{name}`)"
        for position, cell in enumerate(cells):
            bullet = "* -" if position == 0 else "  -"
            lines.append(f"    {bullet} {cell}".rstrip())
    return "\n".join(lines) + "\n"


def format_markdown(summary: Summary) -> str:
    """Write sentences and table as Markdown."""
    head, *rows = summary.to_table()
    lines = [_wrap(sentence, "- ") for sentence in summary.list_sentences()]
    lines += ["", _wrap(summary.describe_origin()), ""]
    lines += [_markdown_row(head), _markdown_row(["---"] * len(head))]
    lines += map(_markdown_row, rows)
    return "\n".join(lines) + "\n"


def _wrap(sentence: str, bullet: str = "") -> str:
    """Break a sentence into lines, between words only."""
    return textwrap.fill(
        sentence,
        _WIDTH,
        initial_indent=bullet,
        subsequent_indent=" " * len(bullet),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _markdown_row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def write_table(summary: Summary, path: Path) -> None:
    """Write a table in the language that the name of the file says."""
    write = format_rst if path.suffix == ".rst" else format_markdown
    path.write_text(write(summary), encoding="utf-8")


def replace_paragraph(text: str, summary: Summary) -> str:
    """Put the sentences into the place that a text has for them.

    Raises
    ------
    ValueError
        If it has none.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(
            f"The text has no place for the figures of the corpus. Put a line with "
            f"{BEGIN} and one with {END} where they belong."
        )
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    lines = [_wrap(sentence, "- ") for sentence in summary.list_sentences()]
    lines = [BEGIN, "", *lines, "", END]
    return before + "\n".join(lines) + after
