"""From the numbers of some calls to how often X was copied, where and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from skl_mmap.copies._blocks import Block
from skl_mmap.copies._coefficients import Coefficient, Shape, divide, find_coefficient
from skl_mmap.copies._detector import Numbers
from skl_mmap.copies._fingerprint import Fingerprint
from skl_mmap.copies._layout import Layout
from skl_mmap.copies._reasons import explain, explain_native, explain_written
from skl_mmap.copies._results import CopySite, MethodCopies
from skl_mmap.copies._stacks import Frame, find_site, find_through

__all__ = ["Run", "is_certain", "judge"]

# Of X: what is less is no copy of it.
MIN_SITE_SHARE = 0.2
# The kernel's numbers are that much more or less than those of NumPy, for the same.
_NOISE = 0.15
_MIN_WRITTEN_SHARE = 0.01
# Of X: beside so much other memory, the kernel's number says nothing about copies.
_MAX_REST = 2.0
_MAX_MODEL_REST = 0.5


@dataclass(slots=True)
class Run:
    """One call that was measured.

    Attributes
    ----------
    numbers : Numbers
        Of the call.
    input_bytes, output_bytes : int
        Sizes of X and of the result.
    output_blocks : list of Block
        The blocks that the result lies in.
    keeps_view : tuple of str
        Attributes that share memory with X.
    state, output : Fingerprint or None
        If they were wanted.
    """

    numbers: Numbers
    input_bytes: int
    output_bytes: int = 0
    output_blocks: list[Block] = field(default_factory=list)
    keeps_view: tuple[str, ...] = ()
    state: Fingerprint | None = None
    output: Fingerprint | None = None

    @property
    def peak_bytes(self) -> int | None:
        """What was needed beside the result."""
        if self.numbers.peak_bytes is None:
            return None
        return max(0, self.numbers.peak_bytes - self.output_bytes)

    @property
    def model_bytes(self) -> int:
        """What native code has kept, in the model."""
        return self.numbers.model_bytes

    @property
    def transient_bytes(self) -> int | None:
        """What was needed beside the result and that."""
        if self.peak_bytes is None:
            return None
        return max(0, self.peak_bytes - self.model_bytes)

    @property
    def numpy_bytes(self) -> int | None:
        """What NumPy needed beside the result."""
        if self.numbers.numpy_bytes is None:
            return None
        in_blocks = sum(block.n_bytes for block in self.output_blocks)
        return max(0, self.numbers.numpy_bytes - in_blocks)


def judge(
    method: str,
    layout: Layout,
    runs: Mapping[Shape, Run],
    own_files: frozenset[str],
) -> MethodCopies:
    """Say how often a method copied X.

    Parameters
    ----------
    method : str
        Its name.
    layout : Layout
        Of X.
    runs : mapping of (n_samples, n_features) to Run
        Its calls.
    own_files : frozenset of str
        Files of the estimator's classes.
    """
    shape = max(runs)
    run = runs[shape]
    itemsize = np.dtype(layout.dtype).itemsize
    written = find_coefficient(
        {key: float(value.numbers.written_bytes) for key, value in runs.items()},
        itemsize,
    ).copies
    copies, native, notes = _count(runs, itemsize, written)
    sites = list(_list_sites(runs, layout, own_files))
    numbers = run.numbers
    grown = Frame("", 0, "")
    stack = numbers.native_stack
    site, through = find_site(stack) or grown, find_through(stack, own_files)
    if native > _NOISE:
        sites.append(_make_site(native, run, site, through, explain_native(site)))
    if written >= _MIN_WRITTEN_SHARE:
        if native > _NOISE:
            site, through = grown, None
        sites.append(_make_site(written, run, site, through, explain_written()))
    sites.sort(key=lambda site: (not site.is_at_peak, -site.copies))
    return MethodCopies(
        method,
        layout,
        copies=round(copies, 3),
        n_samples=shape[0],
        n_features=shape[1],
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
    """Whether copies can be told from other memory, with the samples so far."""
    itemsize = np.dtype(layout.dtype).itemsize
    found = (_find(runs, itemsize, name) for name in ("numpy_bytes", "transient_bytes"))
    return all(coefficient is None or coefficient.is_certain for coefficient in found)


def _count(
    runs: Mapping[Shape, Run], itemsize: int, written: float
) -> tuple[float, float, tuple[str, ...]]:
    """Return the copies, how many of them are native, and what to say about that."""
    in_numpy = _find(runs, itemsize, "numpy_bytes")
    in_all = _find(runs, itemsize, "transient_bytes")
    if in_all is None:
        note = "native memory was not measured: the kernel's peak cannot be reset here"
        return (in_numpy.copies if in_numpy else 0.0) + written, 0.0, (note,)
    if in_numpy is None:
        note = "where X was copied is not known: this NumPy cannot be watched"
        return in_all.copies, 0.0, (note, *_note_uncertain(in_all))
    shape = max(runs)
    full = runs[shape]
    if not in_numpy.is_certain:
        in_blocks = _add_blocks(full, runs.get((shape[0], divide(shape[1]))))
        in_numpy = replace(in_numpy, copies=min(in_numpy.copies, in_blocks))
    assert full.numpy_bytes is not None
    assert full.peak_bytes is not None
    untouched_bytes = full.numpy_bytes + written * full.input_bytes - full.peak_bytes
    if untouched_bytes > _NOISE * full.input_bytes:
        # NumPy was given memory that nobody has used, which costs nothing.
        return in_all.copies, 0.0, _note_uncertain(in_all)
    native = in_all.copies - in_numpy.copies - written
    model = _find(runs, itemsize, "model_bytes")
    if model is not None and model.is_certain and abs(model.rest) < _MAX_MODEL_REST:
        native += model.copies
    is_reliable = in_all.is_certain and in_all.rest < _MAX_REST
    if native > _NOISE and is_reliable:
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


def _add_blocks(run: Run, smaller: Run | None) -> float:
    """Add up the blocks at the peak that are as large as X, and not vectors."""
    vectors = _find_vectors(smaller)
    n_bytes = sum(
        block.n_bytes
        for block in run.numbers.blocks
        if block.is_at_peak
        and block not in run.output_blocks
        and block.n_bytes >= MIN_SITE_SHARE * run.input_bytes
        and block.n_bytes not in vectors.get(find_site(block.stack), ())
    )
    return n_bytes / run.input_bytes


def _find(runs: Mapping[Shape, Run], itemsize: int, name: str) -> Coefficient | None:
    values = {shape: getattr(run, name) for shape, run in runs.items()}
    if any(value is None for value in values.values()):
        return None
    return find_coefficient(values, itemsize)


def _note_uncertain(found: Coefficient) -> tuple[str, ...]:
    if found.is_certain or found.copies + found.rest < _NOISE:
        return ()
    return ("vectors and other memory that is no copy of X may be in the numbers",)


def _list_sites(
    runs: Mapping[Shape, Run], layout: Layout, own_files: frozenset[str]
) -> list[CopySite]:
    """Return the places where NumPy was asked for memory of the size of X."""
    n, d = shape = max(runs)
    run = runs[shape]
    vectors = _find_vectors(runs.get((n, divide(d)))) if d > 1 else {}
    found: dict[tuple[Frame, Frame | None, str], CopySite] = {}
    for block in run.numbers.blocks:
        share = block.n_bytes / run.input_bytes
        site = find_site(block.stack)
        if share < MIN_SITE_SHARE or site is None or block in run.output_blocks:
            continue
        if block.content is None and block.n_bytes in vectors.get(site, ()):
            continue
        through = find_through(block.stack, own_files)
        reason = explain(block, layout, run.input_bytes)
        new = _make_site(share, run, site, through, reason)
        new = replace(
            new,
            n_bytes=block.n_bytes,
            is_at_peak=block.is_at_peak,
            content=str(block.content or ""),
        )
        key = site, through, reason[0]
        old = found.get(key)
        found[key] = new if old is None else _merge(old, new)
    return list(found.values())


def _find_vectors(smaller: Run | None) -> dict[Frame | None, set[int]]:
    """Return the blocks that are as large with fewer columns: vectors, by place."""
    found: dict[Frame | None, set[int]] = {}
    for block in smaller.numbers.blocks if smaller else ():
        found.setdefault(find_site(block.stack), set()).add(block.n_bytes)
    return found


def _merge(first: CopySite, second: CopySite) -> CopySite:
    larger = max(first, second, key=lambda site: site.copies)
    return replace(
        larger,
        n_times=first.n_times + second.n_times,
        is_at_peak=first.is_at_peak or second.is_at_peak,
        content=larger.content or first.content or second.content,
    )


def _make_site(
    copies: float,
    run: Run,
    site: Frame,
    through: Frame | None,
    reason: tuple[str, str],
) -> CopySite:
    return CopySite(
        copies=round(copies, 3),
        n_bytes=int(copies * run.input_bytes),
        n_times=1,
        reason=reason[0],
        detail=reason[1],
        content="",
        file=site.file,
        line=site.line,
        function=site.function,
        through="" if through is None else str(through),
        is_at_peak=True,
    )
