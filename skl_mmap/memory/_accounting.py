"""What tasks did with shared memory in this process since the current one began.

The counters belong to the process, not to a thread: nested threads work for one task.
"""

from __future__ import annotations

import threading
from collections import Counter

from skl_mmap.memory._plan import Cost
from skl_mmap.memory._reasons import Cause


class Counters:
    """Bytes that were mapped, copied and touched.

    Attributes
    ----------
    attached_bytes : int
        Bytes of whole arrays that were mapped.
    dirtied_bytes : int
        Bytes of mapped pages that were written to, if `is_watching_pages`.
    read_bytes : int
        Bytes of mapped pages that were only read, likewise.
    is_watching_pages : bool
        Whether every mapping is looked through before it goes away.
    """

    def __init__(self) -> None:
        # Mappings go away, and count, wherever the garbage collector runs: also here.
        self._lock = threading.RLock()
        self._mapped_bytes = 0
        self._copied: Counter[Cause] = Counter()
        self.attached_bytes = 0
        self.dirtied_bytes = 0
        self.read_bytes = 0
        self.is_watching_pages = False

    def add(self, cost: Cost) -> None:
        """Count rows that were selected from shared data."""
        with self._lock:
            self._mapped_bytes += cost.mapped_bytes
            for cause, n_bytes in cost.copied.items():
                if cause.reason.is_counted:
                    self._copied[cause] += n_bytes

    def add_attached(self, n_bytes: int) -> None:
        """Count an array that was mapped as a whole."""
        with self._lock:
            self.attached_bytes += n_bytes

    def add_seen(self, dirtied_bytes: int, read_bytes: int) -> None:
        """Count pages of a mapping that were written to, and that were only read."""
        with self._lock:
            self.dirtied_bytes += dirtied_bytes
            self.read_bytes += read_bytes

    def take(self) -> Cost:
        """Return what selecting rows cost, and start again at zero."""
        with self._lock:
            taken = Cost(self._mapped_bytes, dict(self._copied))
            self._mapped_bytes = 0
            self._copied.clear()
            self.attached_bytes = self.dirtied_bytes = self.read_bytes = 0
        return taken


counters = Counters()
