"""What row selection cost in this process since the current task began.

Selection adds to the counters; a worker reads them when its task is done. The
counters belong to the process, not to a thread: nested threads work for one task.
"""

from __future__ import annotations

import threading
from collections import Counter

from skl_mmap.memory._planning_context import current_planning

__all__ = ["Counters", "counters"]


class Counters:
    """Bytes of selected rows that were mapped and that were copied, and why.

    Attributes
    ----------
    mapped_bytes : int
        Bytes of rows that appear in a joined view without any copy.
    attached_bytes : int
        Bytes of whole arrays that were mapped.
    dirtied_bytes : int
        Bytes of mapped pages that were written to, if `is_watching_pages`.
    read_bytes : int
        Bytes of mapped pages that were only read, likewise.
    copy_reasons : Counter
        Bytes of rows that were copied although their source is shared, by reason.
    is_watching_pages : bool
        Whether every mapping is looked through before it goes away.
    """

    def __init__(self) -> None:
        # Mappings go away, and count, wherever the garbage collector runs: also here.
        self._lock = threading.RLock()
        self.mapped_bytes = 0
        self.attached_bytes = 0
        self.dirtied_bytes = 0
        self.read_bytes = 0
        self.is_watching_pages = False
        self.copy_reasons: Counter[str] = Counter()

    def add_mapped(self, n_bytes: int) -> None:
        """Count rows that were mapped."""
        counting = self._in_force()
        with counting._lock:
            counting.mapped_bytes += n_bytes

    def add_attached(self, n_bytes: int) -> None:
        """Count an array that was mapped as a whole."""
        with self._lock:
            self.attached_bytes += n_bytes

    def add_seen(self, dirtied_bytes: int, read_bytes: int) -> None:
        """Count pages of a mapping that were written to, and that were only read."""
        with self._lock:
            self.dirtied_bytes += dirtied_bytes
            self.read_bytes += read_bytes

    def add_copied(self, reason: str, n_bytes: int) -> None:
        """Count rows that were copied."""
        if n_bytes:
            counting = self._in_force()
            with counting._lock:
                counting.copy_reasons[reason] += n_bytes

    def take(self) -> tuple[int, dict[str, int]]:
        """Return mapped bytes and copied bytes by reason, and start again at zero."""
        with self._lock:
            taken = self.mapped_bytes, dict(self.copy_reasons)
            self.mapped_bytes = 0
            self.attached_bytes = self.dirtied_bytes = self.read_bytes = 0
            self.copy_reasons.clear()
        return taken

    def _in_force(self) -> Counters:
        """Return what counts selected rows: other counters if they are only planned."""
        planning = current_planning()
        return self if planning is None else planning.counters


counters = Counters()
