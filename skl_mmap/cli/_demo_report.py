"""What the demo found: are the scores the same, what did each backend cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from skl_mmap._units import format_bytes

__all__ = ["TOLERANCE", "Comparison", "Run", "describe_difference", "to_bits"]

# Sums of the same numbers in another order differ by rounding alone.
TOLERANCE = 1e-9
_DASH = "-"


@dataclass(frozen=True, slots=True)
class Run:
    """One data set cross-validated with one backend.

    Attributes
    ----------
    backend : str
        Name of the joblib backend.
    shape : tuple of int
        Shape of X.
    data_bytes : int
        Size of X.
    scores : tuple of float
        Test score of each fold.
    wall_seconds : float
        Time of the cross-validation alone, with warm workers.
    baseline_bytes, peak_bytes, peak_growth_bytes : int
        Committed memory of the process tree: with X loaded and workers warm, at the
        worst moment of the job, and the difference.
    mapped_bytes, copied_bytes : int or None
        Rows of folds that were mapped and copied, over all tasks. None if the backend
        does not say.
    copy_reasons : dict of str to int, or None
        Why rows were copied, and how many bytes for each reason.
    """

    backend: str
    shape: tuple[int, int]
    data_bytes: int
    scores: tuple[float, ...]
    wall_seconds: float
    baseline_bytes: int
    peak_bytes: int
    peak_growth_bytes: int
    mapped_bytes: int | None
    copied_bytes: int | None
    copy_reasons: dict[str, int] | None

    @classmethod
    def from_result(cls, result: dict[str, Any]) -> Run:
        """Make a run from what a child returned."""
        rows, columns = result["shape"]
        return cls(
            **{
                **result,
                "shape": (rows, columns),
                "scores": tuple(result["scores"]),
            }
        )

    @property
    def peak_growth_ratio(self) -> float:
        """Peak memory above the loaded X, in multiples of X."""
        return self.peak_growth_bytes / self.data_bytes

    def to_dict(self) -> dict[str, Any]:
        """Return all attributes and the ratio, as JSON can hold them."""
        return {**asdict(self), "peak_growth_ratio": self.peak_growth_ratio}


@dataclass(frozen=True, slots=True)
class Comparison:
    """The same job on one data set with several backends.

    Attributes
    ----------
    data : str
        Name of the data set.
    runs : tuple of Run
        One for each backend.
    row_order : {"exact", "any"}
        Order of train rows under the backend "mmap"; the others only know "exact".
    depends_on_row_order : bool
        Whether the model is another one if its train rows come in another order.
    """

    data: str
    runs: tuple[Run, ...]
    row_order: str
    depends_on_row_order: bool

    @property
    def max_difference(self) -> float:
        """Largest difference between two backends' scores of the same fold."""
        folds = zip(*(run.scores for run in self.runs), strict=True)
        return max(
            (max(fold) - min(fold) for fold in folds if len(set(to_bits(fold))) > 1),
            default=0.0,
        )

    def find_unequal(self) -> str | None:
        """Say which scores differ that must be equal, None if there are none.

        Rows in the same order must give the same scores to the last bit. Rows in
        another order must give the same scores but for rounding, if the model does
        not depend on it; if it does, there is nothing to check.
        """
        reordered = [run for run in self.runs if self._is_reordered(run)]
        same_order = [run for run in self.runs if not self._is_reordered(run)]
        for run in same_order[1:]:
            first = same_order[0]
            if to_bits(run.scores) != to_bits(first.scores):
                return describe_difference(self.data, first, run, "to the last bit")
        if self.depends_on_row_order or not same_order:
            return None
        for run in reordered:
            first = same_order[0]
            pairs = zip(first.scores, run.scores, strict=True)
            if not all(a.hex() == b.hex() or abs(a - b) <= TOLERANCE for a, b in pairs):
                return describe_difference(
                    self.data, first, run, f"within {TOLERANCE:g}"
                )
        return None

    def _is_reordered(self, run: Run) -> bool:
        return run.backend == "mmap" and self.row_order == "any"

    def to_dict(self) -> dict[str, Any]:
        """Return what was found, as JSON can hold it."""
        return {
            "data": self.data,
            "row_order": self.row_order,
            "scores_checked": not (
                self.row_order == "any" and self.depends_on_row_order
            ),
            "scores_equal": len({to_bits(run.scores) for run in self.runs}) == 1,
            "max_score_difference": self.max_difference,
            "conclusion": self.conclude(),
            "runs": [run.to_dict() for run in self.runs],
        }

    def to_table(self, title: str) -> Any:
        """Return a table of rich."""
        from rich.table import Table

        table = Table(title=title, title_justify="left")
        table.add_column("backend")
        for name in ("wall time", "peak above X", "in X", "mapped", "copied"):
            table.add_column(name, justify="right")
        for run in self.runs:
            table.add_row(
                run.backend,
                f"{run.wall_seconds:.1f} s",
                f"{run.peak_growth_bytes / 2**20:.0f} MiB",
                f"{run.peak_growth_ratio:.2f}",
                _format_optional(run.mapped_bytes),
                _format_optional(run.copied_bytes),
            )
        return table

    def explain_copies(self) -> str:
        """Say why rows were copied, largest first; empty if the backend does not."""
        lines = []
        for run in self.runs:
            reasons = sorted(
                (run.copy_reasons or {}).items(), key=lambda item: -item[1]
            )
            lines += [
                f"{run.backend} copied {format_bytes(n_bytes)}: {reason}"
                for reason, n_bytes in reasons
            ]
        return "\n".join(lines)

    def conclude(self) -> str:
        """Say in one sentence what the figures mean."""
        by_name = {run.backend: run for run in self.runs}
        mmap = by_name.pop("mmap", None)
        other = by_name.get("loky") or next(iter(by_name.values()), None)
        if mmap is None or other is None:
            figures = " and ".join(
                f"{run.backend} {run.peak_growth_ratio:.2f}" for run in self.runs
            )
            return (
                f"Memory above the loaded X, in multiples of X, was {figures} at its "
                f"peak, {self._describe_scores()}; mmap and another backend are needed "
                "to compare."
            )
        saved = other.peak_growth_bytes - mmap.peak_growth_bytes
        return (
            f"Beside the loaded X, {other.backend} needed "
            f"{other.peak_growth_ratio:.2f} times its memory and mmap "
            f"{mmap.peak_growth_ratio:.2f} times, "
            f"{format_bytes(abs(saved))} {'less' if saved >= 0 else 'more'}, "
            f"in {mmap.wall_seconds:.1f} s instead of {other.wall_seconds:.1f} s, "
            f"{self._describe_scores()}."
        )

    def _describe_scores(self) -> str:
        if len({to_bits(run.scores) for run in self.runs}) == 1:
            return "with the same scores to the last bit"
        difference = f"scores differ by at most {self.max_difference:.1g}"
        if self.row_order == "exact":
            return f"but {difference}"
        if not self.depends_on_row_order:
            return f"and {difference}: rounding, as sums run in another order"
        return (
            f"and {difference}, which was not checked, since this model depends on the "
            "order of rows (row_order='any')"
        )


def to_bits(scores: tuple[float, ...]) -> tuple[str, ...]:
    """Return text that is equal exactly if all bits are; nan equals nan."""
    return tuple(score.hex() for score in scores)


def describe_difference(
    where: str, first: Run, second: Run, how: str, *, unit: str = "fold"
) -> str:
    """Say where the scores of two runs differ that must not."""
    pairs = list(zip(first.scores, second.scores, strict=True))
    fold = next(i for i, (a, b) in enumerate(pairs) if a.hex() != b.hex())
    one, other = pairs[fold]
    return (
        f"on {where}, the scores under {first.backend} and {second.backend} are not "
        f"equal {how}: {unit} {fold} has {one!r} and {other!r}. A backend "
        "must not change results: please report it, with the output of --json."
    )


def _format_optional(n_bytes: int | None) -> str:
    return _DASH if n_bytes is None else format_bytes(n_bytes)
