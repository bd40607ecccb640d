"""From the numbers of some calls to how often X was copied, where and why.

Memory that a fit needs is made of parts that grow with ``n_samples * n_features``
(copies of X), with either of them, with powers of them, or not at all. Of four samples,
with n or a fourth of the rows and with d or a fourth of the columns, ::

    P(n, d) - P(n / 4, d) - P(n, d / 4) + P(n / 4, d / 4)

has only the first part left, divided by the same of ``n * d``.

Why a block was made is told in this order: what `sklearn.utils.check_array` was asked
for says most; then what the block holds; then which functions are on the stack. What is
left is a temporary of some formula.
"""

from __future__ import annotations

import itertools
import linecache
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from skl_mmap._compat import CHECKING_FUNCTIONS, SELECTING_FUNCTIONS
from skl_mmap.copies._detector import Block, Numbers
from skl_mmap.copies._job import Fingerprint
from skl_mmap.copies._numpy_memory import Frame, find_site, find_through
from skl_mmap.copies._results import CopySite, Layout, MethodCopies, Reason

Shape = tuple[int, int]
"""Of a sample: rows and columns."""

# Smaller samples have a fourth of the rows or columns.
_DIVISOR = 4
# Fraction of X below which a block is not looked at as a copy.
MIN_SITE_SHARE = 0.2
# The kernel's numbers are that much more or less than those of NumPy, for the same.
_NOISE = 0.15
_MIN_WRITTEN_SHARE = 0.01
# Multiple of X: beside so much other memory, the kernel's peak does not show copies.
_MAX_REST = 2.0
# Fraction of X below which native memory may be lists, models and chance.
_MIN_NATIVE = 0.25
# The kernel adds up 32 pages at a time: what four of its peaks may be wrong by.
_KERNEL_NOISE_BYTES = 400_000
_MAX_MODEL_REST = 0.5
_LINALG = f"{os.sep}linalg{os.sep}"
_COPYING_WORDS = (".copy(", "copy=True", "np.array(", "deepcopy")
_NO_PEAK = "native memory was not measured: the kernel's peak cannot be reset here"
_NO_PLACES = "where X was copied is not known: this NumPy cannot be watched"
_UNCERTAIN = "vectors and other memory that is not a copy of X may be in the numbers"
_NOWHERE = Frame("", 0, "")


@dataclass(frozen=True, slots=True)
class Coefficient:
    """How many copies, and what else there was in the largest sample, in units of X."""

    copies: float
    rest: float
    # False if what grows with the rows alone is in it as well.
    is_certain: bool


def divide(size: int) -> int:
    """Return the size of a smaller sample."""
    return max(1, size // _DIVISOR)


def list_shapes(shape: Shape) -> tuple[tuple[Shape, ...], tuple[Shape, ...]]:
    """Return the shapes of smaller samples, and of others in case these do not do.

    Algorithms change with the number of columns: the others have more of them.
    """
    n, d = shape
    low_n, low_d, other_d = divide(n), divide(d), d - d // _DIVISOR
    first = {(low_n, d), (n, low_d), (low_n, low_d)} - {shape}
    second = {(n, other_d), (low_n, other_d)} - first - {shape}
    return tuple(sorted(first)), tuple(sorted(second))


def find_coefficient(values: Mapping[Shape, float], itemsize: int) -> Coefficient:
    """Find the part of a size that grows with samples times features.

    `values` are the bytes that were needed, of the largest sample at least; `itemsize`
    are those of one number of X.
    """
    n, d = max(values)
    low_n = divide(n)
    full = values[n, d]
    in_all = full / (n * d * itemsize)
    copies, is_certain = in_all, False
    if low_n < n and (low_n, d) in values:
        growth = (full - values[low_n, d]) / ((n - low_n) * d * itemsize)
        copies = min(growth, in_all)
    for low_d in sorted({columns for _, columns in values} - {d}):
        corners = ((low_n, d), (n, low_d), (low_n, low_d))
        if low_n == n or not all(corner in values for corner in corners):
            continue
        mixed = full - values[low_n, d] - values[n, low_d] + values[low_n, low_d]
        found = mixed / ((n - low_n) * (d - low_d) * itemsize)
        if -_NOISE <= found <= in_all + _NOISE:
            copies, is_certain = found, True
            break
    copies = max(0.0, copies)
    return Coefficient(copies, in_all - copies, is_certain)


@dataclass(slots=True)
class Run:
    """One call that was measured, its result, and fingerprints if they were wanted."""

    numbers: Numbers
    input_bytes: int
    output_bytes: int = 0
    # Those that the result lies in.
    output_blocks: list[Block] = field(default_factory=list)
    keeps_view: tuple[str, ...] = ()
    state: Fingerprint | None = None
    output: Fingerprint | None = None

    @property
    def written_bytes(self) -> int:
        """What was written to X itself."""
        return self.numbers.written_bytes

    @property
    def model_bytes(self) -> int:
        """What native code has kept, in the model."""
        return self.numbers.model_bytes

    @property
    def peak_bytes(self) -> int | None:
        """What was needed beside the result."""
        return _without(self.numbers.peak_bytes, self.output_bytes)

    @property
    def transient_bytes(self) -> int | None:
        """What was needed beside the result and the model."""
        return _without(self.peak_bytes, self.model_bytes)

    @property
    def numpy_bytes(self) -> int | None:
        """What NumPy needed beside the result."""
        in_blocks = sum(block.n_bytes for block in self.output_blocks)
        return _without(self.numbers.numpy_bytes, in_blocks)


def _without(n_bytes: int | None, known_bytes: int) -> int | None:
    return None if n_bytes is None else max(0, n_bytes - known_bytes)


def judge(
    method: str, layout: Layout, runs: Mapping[Shape, Run], own_files: frozenset[str]
) -> MethodCopies:
    """Say how often a method copied X; `own_files` have the estimator's classes."""
    calls = _Calls(layout, runs)
    run, numbers = calls.full, calls.full.numbers
    in_place = calls.find("written_bytes")
    written = in_place.copies if in_place else 0.0
    copies, native, notes = calls.count(written)
    sites = calls.list_sites(own_files)
    # A copy that is gone before the peak is one all the same.
    copies = max([copies, *(s.copies for s in sites if calls.is_copy(s))])
    stack = numbers.native_stack
    site, through = find_site(stack) or _NOWHERE, find_through(stack, own_files)
    if native:
        sites.append(_make_site(native, run, site, through, Reason.NATIVE))
    if written >= _MIN_WRITTEN_SHARE:
        if native:
            site, through = _NOWHERE, None
        sites.append(_make_site(written, run, site, through, Reason.WRITTEN))
    sites.sort(key=lambda site: (not site.is_at_peak, -site.copies))
    n_samples, n_features = calls.shape
    return MethodCopies(
        method,
        layout,
        copies=round(copies, 3),
        n_samples=n_samples,
        n_features=n_features,
        input_bytes=run.input_bytes,
        peak_bytes=run.peak_bytes,
        native_copies=round(native, 3),
        written_bytes=numbers.written_bytes,
        output_bytes=run.output_bytes,
        keeps_view=run.keeps_view,
        sites=tuple(sites),
        seconds=numbers.seconds,
        notes=notes,
    )


def is_certain(layout: Layout, runs: Mapping[Shape, Run]) -> bool:
    """Return whether copies can be told from other memory, with the samples so far."""
    calls = _Calls(layout, runs)
    if judge("", layout, runs, frozenset()).native_copies:
        return False
    found = map(calls.find, ("numpy_bytes", "transient_bytes"))
    return all(coefficient is None or coefficient.is_certain for coefficient in found)


class _Calls:
    """The calls of one method, with samples of several shapes in one layout."""

    def __init__(self, layout: Layout, runs: Mapping[Shape, Run]) -> None:
        self.layout = layout
        self.runs = runs
        self.shape = max(runs)
        self.full = runs[self.shape]
        self._itemsize = np.dtype(layout.dtype).itemsize

    def find(self, name: str, columns: int | None = None) -> Coefficient | None:
        """Return how much of something is copies; None if it was not measured.

        With `columns`, samples of as many columns are the only smaller ones.
        """
        values = {
            shape: getattr(run, name)
            for shape, run in self.runs.items()
            if columns is None or shape[1] in (columns, self.shape[1])
        }
        if any(value is None for value in values.values()):
            return None
        return find_coefficient(values, self._itemsize)

    def count(self, written: float) -> tuple[float, float, tuple[str, ...]]:
        """Return the copies, how many are native, and what to say about that."""
        in_numpy = self.find("numpy_bytes")
        in_all = self.find("transient_bytes")
        if in_all is None:
            copies = (in_numpy.copies if in_numpy else 0.0) + written
            return copies, 0.0, (_NO_PEAK,)
        if in_numpy is None:
            return in_all.copies, 0.0, (_NO_PLACES, *_note_uncertain(in_all))
        full = self.full
        if not in_numpy.is_certain:
            copies = min(in_numpy.copies, self._add_blocks())
            in_numpy = replace(in_numpy, copies=copies)
        assert full.numpy_bytes is not None
        assert full.peak_bytes is not None
        used_bytes = full.peak_bytes - written * full.input_bytes
        if full.numpy_bytes - used_bytes > _NOISE * full.input_bytes:
            # NumPy was given memory that nobody has used, which costs nothing.
            return in_all.copies, 0.0, _note_uncertain(in_all)
        native = self._count_native(in_numpy.copies + written)
        is_reliable = in_all.is_certain and in_all.rest < _MAX_REST
        if native and is_reliable:
            return in_numpy.copies + written + native, native, _note_uncertain(in_all)
        notes = _note_uncertain(in_numpy)
        if not is_reliable and in_all.rest + in_all.copies - in_numpy.copies > _NOISE:
            needed = full.peak_bytes / full.input_bytes
            note = (
                f"{needed:.1f} X were needed in all: what native code copied cannot be "
                "told from its other memory"
            )
            notes = (*notes, note)
        return in_numpy.copies + written, 0.0, notes

    def _count_native(self, known: float) -> float:
        """Return the copies of native code; 0 if they may as well be noise.

        Whether there are other algorithms for few columns is seen by comparing samples
        of a fourth and of three fourths of them.
        """
        n, d = self.shape
        in_all = (self.full.peak_bytes or 0) / self.full.input_bytes
        native: float | None = None
        least = _MIN_NATIVE
        for low_d in sorted({columns for _, columns in self.runs} - {d}):
            transient = self.find("transient_bytes", low_d)
            model = self.find("model_bytes", low_d)
            if transient is None or not transient.is_certain:
                continue
            found = transient.copies - known
            if model and model.is_certain and abs(model.rest) < _MAX_MODEL_REST:
                found += model.copies
            found = min(found, in_all - known)
            share = (n - divide(n)) * (d - low_d) * self._itemsize
            noise = _KERNEL_NOISE_BYTES / share
            if native is None:
                native, least = found, max(_MIN_NATIVE, noise)
            elif found + noise < native:
                native = found
        return native if native is not None and native > least else 0.0

    def _list_large(self) -> Iterator[tuple[Block, Frame | None, bool]]:
        """Yield blocks of the size of X, their places, and whether they are elsewhere.

        What has the same size in that place with fewer rows or columns is not a copy:
        vectors, and matrices of features.
        """
        n, d = self.shape
        elsewhere = {
            (find_site(block.stack), block.n_bytes)
            for smaller in {(n, divide(d)), (divide(n), d)} - {self.shape}
            if smaller in self.runs
            for block in self.runs[smaller].numbers.blocks
        }
        for block in self.full.numbers.blocks:
            is_large = block.n_bytes >= MIN_SITE_SHARE * self.full.input_bytes
            if is_large and block not in self.full.output_blocks:
                site = find_site(block.stack)
                yield block, site, (site, block.n_bytes) in elsewhere

    def _add_blocks(self) -> float:
        """Add up the blocks at the peak that are as large as X, and nothing else."""
        n_bytes = sum(
            block.n_bytes
            for block, _, is_elsewhere in self._list_large()
            if block.is_at_peak and not is_elsewhere
        )
        return n_bytes / self.full.input_bytes

    def list_sites(self, own_files: frozenset[str]) -> list[CopySite]:
        """Return the places where NumPy was asked for memory of the size of X."""
        run = self.full
        found: dict[tuple[Frame, Frame | None, Reason], CopySite] = {}
        for block, site, is_elsewhere in self._list_large():
            if site is None or block.is_untouched:
                continue
            if block.content is None and is_elsewhere:
                continue
            through = find_through(block.stack, own_files)
            reason, detail = _explain(block, self.layout, run.input_bytes)
            share = block.n_bytes / run.input_bytes
            new = replace(
                _make_site(share, run, site, through, reason, detail),
                n_bytes=block.n_bytes,
                is_at_peak=block.is_at_peak,
                content=str(block.content or ""),
                holds=block.content,
            )
            key = site, through, reason
            found[key] = _merge(found[key], new) if key in found else new
        return list(found.values())

    def is_copy(self, site: CopySite) -> bool:
        """Return whether a place certainly takes as much as X in all samples."""
        n, d = self.shape
        smaller = self.runs.get((n, divide(d)))
        if site.content or smaller is None or d == divide(d):
            return bool(site.content)
        shares = [
            block.n_bytes / smaller.input_bytes
            for block in smaller.numbers.blocks
            if (place := find_site(block.stack)) is not None
            and (place.file, place.line) == (site.file, site.line)
        ]
        return any(abs(share - site.copies) < _NOISE * site.copies for share in shares)


def _note_uncertain(found: Coefficient) -> tuple[str, ...]:
    is_clear = found.is_certain or found.copies + found.rest < _NOISE
    return () if is_clear else (_UNCERTAIN,)


def _merge(first: CopySite, second: CopySite) -> CopySite:
    larger = max(first, second, key=lambda site: site.copies)
    return replace(
        larger,
        n_times=first.n_times + second.n_times,
        is_at_peak=first.is_at_peak or second.is_at_peak,
        content=larger.content or first.content or second.content,
        holds=larger.holds or first.holds or second.holds,
    )


def _make_site(
    copies: float,
    run: Run,
    site: Frame,
    through: Frame | None,
    reason: Reason,
    detail: str = "",
) -> CopySite:
    return CopySite(
        copies=round(copies, 3),
        n_bytes=int(copies * run.input_bytes),
        n_times=1,
        reason=reason,
        detail=detail or reason.sentence,
        content="",
        file=site.file,
        line=site.line,
        function=site.function,
        through="" if through is None else str(through),
        is_at_peak=True,
    )


def _explain(block: Block, layout: Layout, input_bytes: int) -> tuple[Reason, str]:
    """Return why a block of NumPy was made, and the sentence that says it."""
    kind = None if block.content is None else block.content.kind
    functions = {frame.function for frame in block.stack}
    if kind == "rows" or functions & SELECTING_FUNCTIONS:
        return _say(Reason.ROWS)
    if block.content is not None and (block.arguments is not None or kind == "equal"):
        made = block.content.layout
        if made.dtype != layout.dtype:
            return _say(Reason.DTYPE, layout.dtype, made.dtype)
        if made.order != layout.order:
            return _say(Reason.ORDER, layout.order, made.order)
    checked = _explain_check(block, layout, input_bytes)
    if checked is not None:
        return checked
    site = find_site(block.stack)
    if _is_decomposing(block, site):
        return _say(Reason.LINALG)
    if kind == "equal" or _is_copying(site):
        return _say(Reason.COPY)
    if kind == "centered":
        return _say(Reason.CENTERING)
    return _say(Reason.SCALING if kind == "scaled" else Reason.TEMPORARY)


def _say(reason: Reason, given: str = "", made: str = "") -> tuple[Reason, str]:
    return reason, reason.sentence.format(given=given, made=made)


def _explain_check(
    block: Block, layout: Layout, input_bytes: int
) -> tuple[Reason, str] | None:
    """Say what check_array made the block for; None if it did not."""
    arguments, site = block.arguments, find_site(block.stack)
    if arguments is None or site is None:
        return None
    if site.function not in CHECKING_FUNCTIONS:
        return None
    itemsize = np.dtype(layout.dtype).itemsize
    found = round(block.n_bytes / input_bytes * itemsize)
    if found != itemsize and arguments["dtype"] is not None:
        return _say(Reason.DTYPE, layout.dtype, f"float{8 * found}")
    order = arguments["order"]
    if order in ("C", "F") and order != layout.order:
        return _say(Reason.ORDER, layout.order, order)
    if arguments["copy"] is True:
        return _say(Reason.COPY)
    if arguments["force_writeable"] is True and layout.mode == "r":
        return _say(Reason.WRITEABILITY)
    return None


def _is_decomposing(block: Block, site: Frame | None) -> bool:
    """Return whether linear algebra of NumPy or SciPy asked for it, not its caller."""
    inner = itertools.takewhile(lambda frame: frame != site, block.stack)
    return any(frame and _LINALG in frame.file for frame in (*inner, site))


def _is_copying(site: Frame | None) -> bool:
    if site is None:
        return False
    line = linecache.getline(site.file, site.line)
    return any(word in line for word in _COPYING_WORDS)
