"""Whether there is memory for a job, said before it begins."""

from __future__ import annotations

from collections.abc import Mapping

from skl_mmap._linux.proc import available_memory_bytes
from skl_mmap._units import format_bytes
from skl_mmap.cli._errors import CommandError

__all__ = ["check_room"]


def check_room(
    peak_ratios: Mapping[str, tuple[float, float]],
    *,
    data: str,
    data_bytes: int,
    n_workers: int,
    advice: str,
) -> None:
    """Refuse to start what would end in the kernel's out-of-memory killer.

    Parameters
    ----------
    peak_ratios : mapping of str to (float, float)
        For each backend, the peak of the process tree in multiples of X: what does not
        depend on the number of workers, and what each worker adds.
    data : str
        Name of X.
    data_bytes : int
        Size of X.
    n_workers : int
        How many workers there will be.
    advice : str
        What to do if it does not fit.

    Raises
    ------
    CommandError
        If one of them needs more than is available.
    """
    available = available_memory_bytes()
    needs = {
        name: int(data_bytes * (fixed + per_worker * n_workers))
        for name, (fixed, per_worker) in peak_ratios.items()
    }
    worst = max(needs, key=lambda name: needs[name])
    if available is not None and needs[worst] > available:
        raise CommandError(
            f"{worst} with {n_workers} workers needs about "
            f"{format_bytes(needs[worst])} for X of {format_bytes(data_bytes)} "
            f"({data}), and {format_bytes(available)} are available. {advice}"
        )
