"""What to call a batch of tasks in a report: who is fitted, and on which fold."""

from __future__ import annotations

import contextlib
from typing import Any

from skl_mmap._compat import tasks_of

# Tasks that know better what they are pass this argument; see `skl_mmap.estimators`.
_LABEL = "label"
# What scikit-learn's searches pass: number of the split, and how many there are.
_PROGRESS = "split_progress"


def label_batch(batch: Any) -> str:
    """Return the labels of the tasks of a batch, each once."""
    items = tasks_of(batch)
    if items is None:
        return ""
    # Arguments are of any class, and what asking them for an attribute does is up to
    # them. No task fails because of its name.
    with contextlib.suppress(Exception):
        return ", ".join(dict.fromkeys(filter(None, map(label_task, items))))
    return ""


def label_fold(name: str, fold: int, n_splits: int) -> str:
    """Return the label of an estimator on one fold, which counts from 0."""
    return f"{name}, fold {fold + 1} of {n_splits}"


def label_task(item: Any) -> str:
    """Return the label of one task: (function, args, kwargs)."""
    _, args, kwargs = item
    label = kwargs.get(_LABEL)
    if isinstance(label, str):
        return label
    name = next(filter(None, map(_name_estimator, (*args, *kwargs.values()))), "")
    progress = kwargs.get(_PROGRESS)
    if name and isinstance(progress, tuple) and len(progress) == 2:
        return label_fold(name, *progress)
    return name


def _name_estimator(value: Any) -> str:
    """Return the class of an estimator; of a pipeline, that of its last step."""
    if not hasattr(type(value), "get_params"):
        return ""
    steps = getattr(value, "steps", None)
    if isinstance(steps, list) and steps:
        return _name_estimator(steps[-1][-1]) or type(value).__name__
    return type(value).__name__
