"""Rows of several arrays, selected together: the columns of a frame, say.

::

    segment    |...a...|...b...|...c...|          each array from the start of a page
    plans      a: |run|run|   b: |run|run|  ...   one for each
    mapping    |run|run|..|run|run|..|run|run|    one for all, on pages of each array

It is the rows of all arrays that have to be worth a mapping: those of one small column
of sixty are not. What lies between the arrays belongs to nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy.typing as npt

from skl_mmap._linux.calls import HUGE_PAGE_BYTES
from skl_mmap._linux.proc import PAGE_BYTES
from skl_mmap.memory._accounting import counters
from skl_mmap.memory._mapping import Mapping, as_array, map_plan
from skl_mmap.memory._plan import (
    Cost,
    Geometry,
    Piece,
    Plan,
    _Part,
    plan_runs,
    round_up,
)
from skl_mmap.memory._reasons import Reason
from skl_mmap.memory._runs import Runs
from skl_mmap.memory._segment import Segment
from skl_mmap.memory._settings import Settings
from skl_mmap.memory._shared_array import carry_out

# One that is large has huge pages if it lies in a mapping of its own as it does in the
# file.
_MAX_JOINT_BYTES = HUGE_PAGE_BYTES


class PlannedArray(NamedTuple):
    """One of the arrays that rows are selected from, and the plan of its rows."""

    array: npt.NDArray[Any]
    geometry: Geometry
    plan: Plan


def plan_one_of_several(geometry: Geometry, runs: Runs, whole_bytes: int) -> Plan:
    """Plan the selection of runs of rows of one of several arrays.

    Parameters
    ----------
    geometry : Geometry
        The array.
    runs : ndarray of shape (n_runs, 2)
        The rows, in the order in which they are selected.
    whole_bytes : int
        Bytes of these rows, of all arrays. If they are enough for a mapping, what one
        array has of them need not be: but half of that must be mapped.
    """
    origin = geometry.origin
    if origin is None or whole_bytes < origin.settings.min_mapped_bytes:
        return plan_runs(geometry, runs)
    n_bytes = int((runs[:, 1] - runs[:, 0]).sum()) * geometry.row_bytes
    least_bytes = min(origin.settings.min_mapped_bytes, n_bytes // 2)
    settings = origin.settings._replace(min_mapped_bytes=least_bytes)
    origin = origin._replace(settings=settings)
    return plan_runs(geometry._replace(origin=origin), runs)


def carry_out_together(
    planned: Sequence[PlannedArray], n_rows: int
) -> list[npt.NDArray[Any] | None]:
    """Map what was planned for rows of several arrays, and count what it costs.

    None stands for each array of which nothing was planned to be mapped, or for which
    the kernel has no room.
    """
    selected: list[npt.NDArray[Any] | None] = [None] * len(planned)
    groups: dict[Segment, list[int]] = {}
    for place, (array, geometry, plan) in enumerate(planned):
        segment = geometry.origin.segment if geometry.origin else None
        if segment is None or not plan.is_mapped or plan.n_bytes > _MAX_JOINT_BYTES:
            selected[place] = carry_out(plan, geometry, array, n_rows)
        else:
            groups.setdefault(segment, []).append(place)
    for segment, places in groups.items():
        found = _map_together(segment, [planned[place] for place in places], n_rows)
        for place, rows in zip(places, found, strict=True):
            selected[place] = rows
    return selected


def _map_together(
    segment: Segment, planned: list[PlannedArray], n_rows: int
) -> Iterable[npt.NDArray[Any] | None]:
    plans = [plan for _, _, plan in planned]
    joint, starts = _join_plans(plans)
    mapping = map_plan(segment, joint, _settings_of(planned[0]))
    if mapping is None:
        n_bytes = sum(plan.n_bytes for plan in plans)
        counters.add(Cost.of_copy(Reason.NO_MAPPINGS, n_bytes))
        return [None] * len(planned)
    counters.add(_cost_of(mapping, joint, plans))
    return [
        as_array(mapping, array.dtype, (n_rows, *array.shape[1:]), offset=start)
        for (array, _, _), start in zip(planned, starts, strict=True)
    ]


def _settings_of(planned: PlannedArray) -> Settings:
    assert planned.geometry.origin is not None
    return planned.geometry.origin.settings


def _join_plans(plans: Sequence[Plan]) -> tuple[Plan, list[int]]:
    """Put plans behind each other, and say where the rows of each begin."""
    pieces: list[Piece] = []
    parts: list[_Part] = []
    starts = []
    stop = 0
    for plan in plans:
        # Where its pages are whole ones.
        start = round_up(stop, PAGE_BYTES) + plan.phase % PAGE_BYTES
        pieces += [
            piece._replace(start=piece.start + start, stop=piece.stop + start)
            for piece in plan.pieces
        ]
        parts += [
            part._replace(low=part.low + start, high=part.high + start)
            for part in plan.parts
        ]
        starts.append(start)
        stop = start + plan.n_bytes
    return Plan(stop, pieces, parts), starts


def _cost_of(mapping: Mapping, joint: Plan, plans: Sequence[Plan]) -> Cost:
    """Add up what single plans cost, with those of their parts that were mapped."""
    mapped = set(mapping.mapped)
    spans = iter(joint.spans)
    cost = Cost()
    for plan in plans:
        found = [part for part in plan.parts if next(spans) in mapped]
        cost += plan._replace(parts=found).cost
    return cost
