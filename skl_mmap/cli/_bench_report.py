"""What ``skl-mmap bench`` found: what each peer has cost, and whether scores agree."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from skl_mmap._units import format_bytes
from skl_mmap.cli._demo_report import Run, describe_difference, to_bits
from skl_mmap.cli._text_table import format_table

__all__ = ["JobTable", "PeerResult"]

_COLUMNS = ("", "peak above X", "in X", "seconds", "scores")


@dataclass(frozen=True, slots=True)
class PeerResult:
    """One job with one peer, perhaps several times.

    Attributes
    ----------
    peer : str
        Its name.
    keeps_row_order : bool
        Whether train rows come in the order of the splitter.
    runs : tuple of Run
        One for each repetition; none if it has not taken part.
    reason : str or None
        Why it has not.
    """

    peer: str
    keeps_row_order: bool
    runs: tuple[Run, ...]
    reason: str | None = None

    @property
    def peak_growth_bytes(self) -> float:
        """Median of the peaks above the loaded X."""
        return statistics.median(run.peak_growth_bytes for run in self.runs)

    @property
    def peak_growth_ratio(self) -> float:
        """The same, in multiples of X."""
        return self.peak_growth_bytes / self.runs[0].data_bytes

    @property
    def wall_seconds(self) -> float:
        """Median of the times."""
        return statistics.median(run.wall_seconds for run in self.runs)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, as JSON can hold it."""
        figures = (
            {
                "peak_growth_bytes": self.peak_growth_bytes,
                "peak_growth_ratio": self.peak_growth_ratio,
                "wall_seconds": self.wall_seconds,
            }
            if self.runs
            else {}
        )
        return {
            "peer": self.peer,
            "keeps_row_order": self.keeps_row_order,
            "reason": self.reason,
            **figures,
            "runs": [run.to_dict() for run in self.runs],
        }


@dataclass(frozen=True, slots=True)
class JobTable:
    """One job with all peers.

    Attributes
    ----------
    job : str
        What was run.
    title : str
        On which data, with how many workers.
    results : tuple of PeerResult
        One for each peer.
    """

    job: str
    title: str
    results: tuple[PeerResult, ...]

    @property
    def reference(self) -> PeerResult | None:
        """The peer that others are compared with: loky, or the first in exact order."""
        exact = [r for r in self.results if r.runs and r.keeps_row_order]
        return next((r for r in exact if r.peer == "loky"), exact[0] if exact else None)

    def find_unequal(self) -> str | None:
        """Say which scores differ that must be equal to the last bit, None if none."""
        if (reference := self.reference) is None:
            return None
        first = reference.runs[0]
        for result in self.results:
            for run in result.runs if result.keeps_row_order else ():
                if to_bits(run.scores) != to_bits(first.scores):
                    return describe_difference(
                        self.job, first, run, "to the last bit", unit="score"
                    )
        return None

    def compare_scores(self, result: PeerResult) -> str:
        """Say how the scores of a peer agree with those of the reference."""
        if (reference := self.reference) is None:
            return "not compared"
        expected = reference.runs[0].scores
        if all(to_bits(run.scores) == to_bits(expected) for run in result.runs):
            return "reference" if result is reference else "equal"
        difference = max(
            abs(a - b)
            for run in result.runs
            for a, b in zip(run.scores, expected, strict=True)
        )
        return f"differ by {difference:.1g}"

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, as JSON can hold it."""
        return {
            "job": self.job,
            "scores_equal": self.find_unequal() is None,
            "peers": [
                {
                    **result.to_dict(),
                    "scores": self.compare_scores(result) if result.runs else None,
                }
                for result in self.results
            ],
        }

    def __str__(self) -> str:
        """Show the peers as a table, and say why some are missing."""
        rows = [
            (
                result.peer,
                format_bytes(result.peak_growth_bytes),
                f"{result.peak_growth_ratio:.2f}",
                f"{result.wall_seconds:.2f}",
                self.compare_scores(result),
            )
            for result in self.results
            if result.runs
        ]
        skipped = [
            f"{result.peer} has not taken part: {result.reason}."
            for result in self.results
            if not result.runs
        ]
        table = format_table([_COLUMNS, *rows])
        return "\n".join([f"{self.job}: {self.title}", table, *skipped])
