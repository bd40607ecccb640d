"""Processes that were forked from each other, and which memory is whose.

::

    /proc/PID/statm ............ all private pages of a process         every reading
    /proc/PID/auxv ............. whether it is what was forked still    every reading
    /proc/PID/smaps_rollup ..... how many of them others account for    now and then

A page that n processes share is a private page of each: a sum over them has it n
times. Pss_Anon has 1/n of it, and the sum is right. But to tell it, the kernel walks
over all pages of a process: 12 ms for each resident GB, and 5 ms for a worker that has
loaded scikit-learn. What such a walk says is remembered as *borrowed*, and taken off
the private pages that every reading has anew::

    own = private - borrowed       borrowed = Anonymous + Swap - Pss_Anon - SwapPss

What may happen between two walks:

* A process allocates or frees memory: `private` has it at once. Exact.
* A process forks: the child has borrowed all that its parent has. Exact.
* A process ends or calls exec: others count what it had of the shared pages. Exact if
  all have the same pages, else too little; so they are walked over soon.
* A process writes to a shared page, which becomes its own, or unmaps one that others
  keep: nothing shows it, and the sum is too little until the next walk.

So readings are never too much, where nothing is hidden. How much too little they have
been is found by the next walk, and told. Only what a process copies between the last
walk over it and its end is never known.

The sampler runs this file too: nothing but the standard library and its neighbours may
be imported.
"""

from __future__ import annotations

import time

from skl_mmap.monitor._process import Process, ProcessNumbers

# Between vfork and exec a child has its parent's memory, and to the kernel this is not
# sharing: walks over both would find all of X twice.
_EXEC_GRACE_SECONDS = 0.25

# From one round of walks to the next: so long that they take no more than the first
# share of a core, but no longer than the upper bound, unless they take more than the
# second share. A fourth of that if there is a reason.
_MIN_ROUND_SECONDS = 0.5
_MAX_ROUND_SECONDS = 2.0
_CPU_SHARES = (0.02, 0.1)
_HASTE = 4
# A round that is not over by then, because processes come and go, is made in one go;
# one that could not be made is noted.
_PATIENCE_SECONDS = 1.0
_NOTED_SECONDS = 5.0
# Walks of one reading, so that the next one is not late. There is at least one walk.
_SLICE_SECONDS = 0.003

# What is worth a hurry: pages that became private unseen, in bytes and as a part of
# all; page faults that come so many times as fast as before, and so many more.
_LATE_BYTES = 16 << 20
_LATE_PART = 50
_BURST_FACTOR = 4
_BURST_FAULTS = 1 << 14

Late = tuple[float, int]
"""Since when readings may have been too little, and how many bytes at most."""

_HIDDEN = (
    "Some processes may not be looked at closely: if they were forked, memory that "
    "they share with others is counted in each of them."
)
_RESTLESS = (
    "Processes were forked too often to look at them closely: copies of shared pages "
    "that they wrote to may be missing."
)
_REACHES_OUT = (
    "The process that is measured was itself forked: memory that it shares with the "
    "one it was forked from is counted in full."
)


class _Relative:
    """A process of a family, and what it has borrowed.

    Attributes
    ----------
    lender : _Relative or None
        Whom it has borrowed all from that it has borrowed. None for the first of a
        family, and after a round of walks.
    private_bytes : int
        All its private pages, as of the last reading.
    borrowed_bytes : int
        Those that are counted as its relatives'; -1 before the first reading.
    found_bytes : int
        The same, as found in the round of walks that has not ended yet.
    is_settled : bool
        Whether its relatives' numbers know of it: not before a round of walks is over.
    """

    __slots__ = (
        "borrowed_bytes",
        "family",
        "found_bytes",
        "grace_end",
        "is_settled",
        "lender",
        "private_bytes",
        "process",
    )

    def __init__(
        self, process: Process, family: _Family, lender: _Relative | None
    ) -> None:
        self.process = process
        self.family = family
        self.lender = lender
        self.private_bytes = 0
        self.borrowed_bytes = -1
        self.found_bytes = 0
        self.is_settled = lender is None
        age_seconds = time.time() - process.start_time
        self.grace_end = time.monotonic() + _EXEC_GRACE_SECONDS - age_seconds

    @property
    def own_bytes(self) -> int:
        """Its private pages without those that are counted as its relatives'."""
        return max(0, self.private_bytes - self.borrowed_bytes)

    def take(self, private_bytes: int) -> None:
        """Take up what a reading says."""
        self.private_bytes = private_bytes
        if self.borrowed_bytes < 0:
            lent = 0 if self.lender is None else self.lender.private_bytes
            # What is more than its parent has, it has allocated since.
            self.borrowed_bytes = min(private_bytes, lent)

    def settle(self, borrowed_bytes: int) -> None:
        """Take up what a round of walks says."""
        self.borrowed_bytes = borrowed_bytes
        self.lender = None
        self.is_settled = True


class _Family:
    """Processes that have the same image: forked from each other without an exec.

    Parameters
    ----------
    image : bytes
        What they have in common.

    Attributes
    ----------
    relatives : list of _Relative
        In the order in which they were found.
    anchor : _Relative or None
        One that shares memory with a process outside of the tree, whose part of it
        nobody would count: it has borrowed nothing.
    is_hidden : bool
        Whether one of them could not be walked over.
    is_restless : bool
        Whether there was no time for a walk for long.
    """

    def __init__(self, image: bytes) -> None:
        self.image = image
        self.relatives: list[_Relative] = []
        self.anchor: _Relative | None = None
        self.is_hidden = False
        self.is_restless = False
        self._queue: list[_Relative] = []
        self._due_since: float | None = None
        self._begin = self._last_begin = 0.0
        self._cost_seconds = 0.0
        self._wait_seconds = _MIN_ROUND_SECONDS
        self._is_urgent = False
        self._last_state = (0, 0)
        self._faults_per_second = 0.0

    def add(self, relative: _Relative) -> None:
        """Add a process that is new. Walks before and after it do not fit together."""
        self.relatives.append(relative)
        self._queue.clear()

    def remove(self, relative: _Relative) -> None:
        """Let a process go, and have others count what it had of shared pages."""
        self.relatives.remove(relative)
        self._queue.clear()
        if len(self.relatives) == 1:
            self.relatives[0].settle(0)
            self._due_since = None
            return
        borrowers = [other for other in self.relatives if other.lender is relative]
        if borrowers:
            self._bequeath(relative, borrowers)
        elif relative.is_settled:
            self._divide(relative.borrowed_bytes)
        # One that has come and called exec has left nothing to anybody.
        self._is_urgent |= relative.is_settled or bool(borrowers)

    @staticmethod
    def _bequeath(relative: _Relative, borrowers: list[_Relative]) -> None:
        """Put one that has borrowed all from a process that has gone in its place."""
        heir, *others = borrowers
        heir.lender = relative.lender
        heir.is_settled = relative.is_settled
        heir.borrowed_bytes = min(heir.borrowed_bytes, relative.borrowed_bytes)
        for other in others:
            other.lender = heir

    def _divide(self, borrowed_bytes: int) -> None:
        """Divide the part of one that has gone, as if all had shared the same pages.

        Of a page that n have, each has borrowed 1 - 1/n, and counts 1/(n - 1) of that.
        Where fewer had it, that is too little, and never too much.
        """
        settled = [other for other in self.relatives if other.is_settled]
        total_bytes = sum(other.borrowed_bytes for other in settled)
        if total_bytes:
            part_bytes = min(borrowed_bytes // len(settled), total_bytes)
            for other in settled:
                other.borrowed_bytes -= part_bytes * other.borrowed_bytes // total_bytes

    def walk(self, now: float, *, at_once: bool) -> Late | None:
        """Go on with the round of walks if there is one, or begin one if it is time.

        Parameters
        ----------
        now : float
            Time of the reading.
        at_once : bool
            Whether to walk over all now, due or not.

        Returns
        -------
        Late or None
            What was missing just before, if a round is over now.
        """
        if not self._queue:
            if not (at_once or self._is_due(now)):
                return None
            if self._due_since is None:
                self._due_since = now
            late_seconds = now - self._due_since
            if any(now < other.grace_end for other in self.relatives):
                self.is_restless |= late_seconds > _NOTED_SECONDS
                return None
            at_once |= late_seconds > _PATIENCE_SECONDS
            self._queue = self.relatives[::-1]
            self._begin, self._cost_seconds = now, 0.0
        return self._finish() if self._walk_over_some(at_once=at_once) else None

    def _is_due(self, now: float) -> bool:
        elapsed = now - self._last_begin
        state = self._read_state()
        n_faults = state[0] - self._last_state[0]
        usual = self._faults_per_second * elapsed
        if n_faults > _BURST_FACTOR * usual + _BURST_FAULTS:
            self._is_urgent = True
        if self._is_urgent:
            return elapsed >= self._wait_seconds / _HASTE
        return elapsed >= self._wait_seconds and state != self._last_state

    def _read_state(self) -> tuple[int, int]:
        """Return what changes when pages do: number of page faults, private bytes."""
        n_faults = sum(other.process.n_faults for other in self.relatives)
        return n_faults, sum(other.private_bytes for other in self.relatives)

    def _walk_over_some(self, *, at_once: bool) -> bool:
        """Walk over the next ones; False if there are more, or one of them has gone."""
        begin = end = time.thread_time()
        try:
            while self._queue and (at_once or end - begin < _SLICE_SECONDS):
                relative = self._queue.pop()
                borrowed_bytes = relative.process.read_borrowed()
                if borrowed_bytes is None:
                    self.is_hidden = True
                relative.found_bytes = borrowed_bytes or 0
                end = time.thread_time()
        except OSError:
            # The next reading notices, and has the others divide its part.
            self._queue.clear()
            return False
        self._cost_seconds += end - begin
        return not self._queue

    def _finish(self) -> Late:
        """Take up what a round has found, all at once, and plan the next one."""
        before_bytes = sum(other.own_bytes for other in self.relatives)
        for other in self.relatives:
            other.settle(0 if other is self.anchor else other.found_bytes)
        after_bytes = sum(other.own_bytes for other in self.relatives)
        late = self._last_begin, max(0, after_bytes - before_bytes)
        self._is_urgent = late[1] > max(_LATE_BYTES, after_bytes // _LATE_PART)
        self._due_since = None
        seldom, often = (self._cost_seconds / share for share in _CPU_SHARES)
        wait_seconds = min(max(seldom, _MIN_ROUND_SECONDS), _MAX_ROUND_SECONDS)
        self._wait_seconds = max(wait_seconds, often)
        state = self._read_state()
        n_faults = max(0, state[0] - self._last_state[0])
        elapsed = max(self._begin - self._last_begin, _SLICE_SECONDS)
        self._faults_per_second = n_faults / elapsed
        self._last_state, self._last_begin = state, self._begin
        return late


class Families:
    """The families of a tree of processes, most of them of one.

    Attributes
    ----------
    late : list of Late
        What was missing from readings before the last one.
    notes : set of str
        What is counted more than once, and why.
    """

    def __init__(self, root: Process) -> None:
        self._by_image: dict[bytes, _Family] = {}
        self._relatives: dict[int, _Relative] = {}
        self.late: list[Late] = []
        self.notes: set[str] = set()
        self.add(root)
        if root.is_fork_of_parent():
            relative = self._relatives[root.pid]
            relative.family.anchor = relative

    def add(self, process: Process, parent: Process | None = None) -> None:
        """Take up a process that is new, or new since it has called exec."""
        if not process.image:
            if process.image is None:
                self.notes.add(_HIDDEN)
            return
        family = self._by_image.setdefault(process.image, _Family(process.image))
        lender = None if parent is None else self._relatives.get(parent.pid)
        if lender is not None and lender.family is not family:
            lender = None
        relative = _Relative(process, family, lender)
        self._relatives[process.pid] = relative
        family.add(relative)

    def remove(self, process: Process) -> None:
        """Let a process go that has ended, or was never here."""
        relative = self._relatives.pop(process.pid, None)
        if relative is not None:
            family = relative.family
            family.remove(relative)
            if not family.relatives:
                del self._by_image[family.image]

    def follow(self, process: Process) -> None:
        """Notice that a process has called exec or ended, and has no relatives now.

        To be called before its memory is read: the other way round, an exec in between
        would make its parent's memory its own. One that may be looked at no longer most
        probably runs a program as somebody else.
        """
        relative = self._relatives.get(process.pid)
        if relative is None:
            is_waited_for = process.image == b""
        else:
            is_waited_for = len(relative.family.relatives) > 1
        if is_waited_for and process.notice_exec():
            self.remove(process)
            if process.is_counted:
                self.add(process)

    def divide(
        self, processes: list[ProcessNumbers], now: float, *, at_once: bool
    ) -> list[ProcessNumbers]:
        """Turn the private bytes of each process into those that count as its own.

        The sum over all processes has every page once. If `at_once`, all that have
        relatives are walked over.
        """
        for numbers in processes:
            if relative := self._relatives.get(numbers[0]):
                relative.take(numbers[2])
        self.late = []
        for family in self._by_image.values():
            if len(family.relatives) > 1:
                if late := family.walk(now, at_once=at_once):
                    self.late.append(late)
                self._take_notes(family)
        return [self._take_off(numbers) for numbers in processes]

    def _take_notes(self, family: _Family) -> None:
        if family.is_hidden:
            self.notes.add(_HIDDEN)
        if family.is_restless:
            self.notes.add(_RESTLESS)
        if family.anchor is not None and family.relatives[1].is_settled:
            self.notes.add(_REACHES_OUT)

    def _take_off(self, numbers: ProcessNumbers) -> ProcessNumbers:
        relative = self._relatives.get(numbers[0])
        if relative is None or not relative.borrowed_bytes:
            return numbers
        pid, name, _, shared, of_files = numbers
        return pid, name, relative.own_bytes, shared, of_files
