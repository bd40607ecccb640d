"""The scenarios of targets.py; each is a function that yields rows of the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from scenarios import (
    endings,
    memory,
    models,
    results,
    searches,
    stacks,
    times,
    views,
    workers,
)
from scenarios.rows import Row, Settings

__all__ = ["SCENARIOS", "Row", "Settings"]

SCENARIOS: dict[str, Callable[[Settings], Iterator[Row]]] = {
    function.__name__: function
    for function in (
        memory.null_exact,
        memory.null_loky,
        memory.null_any,
        memory.npy_any,
        memory.adopt_any,
        memory.sgd_any,
        memory.narrow_any,
        searches.gathered,
        models.knn_stack,
        models.single_fits,
        stacks.friedman_stack,
        stacks.pipelines,
        stacks.unequal_stack,
        stacks.small_fit,
        times.wall,
        times.hold,
        times.share_speed,
        results.large_results,
        results.predictions,
        results.texts,
        results.tiny_tasks,
        views.parts,
        workers.worker_memory,
        workers.worker_tree,
        workers.worker_start,
        endings.leaks,
        endings.sigkill,
    )
}
