"""A hand in what an estimator does while it is fitted: its folds, and its tasks.

::

    estimator.fit
      cv.split(X, y) --------> folds go to the estimator, and to who has asked for them
      Parallel()(tasks) -----> RewritingBackend.submit: a `TaskRewriter` may put other
                               tasks in their places, with the same results

Nothing of the estimator is replaced but its splitter, by a copy that also tells. What
is rewritten is seen by workers only: all that happens in this process, the refit of a
search for example, has the data as it was given.
"""

from __future__ import annotations

import contextlib
import copy
import types
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

from joblib.parallel import get_active_backend
from sklearn.base import is_classifier
from sklearn.model_selection import check_cv

from skl_mmap._compat import set_tasks, tasks_of, waiting_batches
from skl_mmap.backend import MmapBackend
from skl_mmap.estimators._single_fits import is_search
from skl_mmap.estimators._stacking import is_stacking
from skl_mmap.monitor import note

_SPLIT = "split"
# Beside searches and stacking ensembles: those of scikit-learn's estimators that send
# train and test sets to workers, and for which cv=None means five folds.
_WITH_FOLDS = frozenset(
    {
        *("CalibratedClassifierCV", "RFECV", "LogisticRegressionCV"),
        *("LassoCV", "ElasticNetCV", "MultiTaskLassoCV", "MultiTaskElasticNetCV"),
        "SequentialFeatureSelector",
    }
)
# Those that do so by a search of their own, unless cv=None.
_WITH_SEARCH = frozenset({"RidgeCV", "RidgeClassifierCV"})

# (train, test) of each fold.
Splits = list[tuple[Any, Any]]
FoldListener = Callable[[Any, Any, Splits], None]


class TaskRewriter(ABC):
    """Puts other tasks in the places of those that an estimator wants to run."""

    @abstractmethod
    def see_folds(self, X: Any, y: Any, splits: Splits) -> None:
        """Be told of the folds, before any task has one of them."""

    @abstractmethod
    def rewrite(self, item: Any) -> Any:
        """Return what to run for a task, (function, args, kwargs): the same result.

        It is asked again about tasks that it has returned.
        """

    @abstractmethod
    def release(self) -> None:
        """Let go of what tasks were given: a parallel call has ended."""


class RewritingBackend(MmapBackend):
    """The backend "mmap", with somebody who may rewrite tasks before they are sent."""

    rewriter: TaskRewriter | None = None

    def submit(self, func: Any, callback: Callable[[Any], None] | None = None) -> Any:
        """Send a batch of tasks to the workers."""
        if self.rewriter is not None:
            # Those that wait as well, before their index arrays become runs.
            for batch in (func, *waiting_batches(self.parallel)):
                items = tasks_of(batch)
                if items is not None:
                    set_tasks(batch, [self.rewriter.rewrite(item) for item in items])
        return super().submit(func, callback)

    def stop_call(self) -> None:
        """End a call."""
        super().stop_call()
        if self.rewriter is not None:
            self.rewriter.release()


@contextlib.contextmanager
def rewriting_tasks(estimator: Any, y: Any, rewriter: TaskRewriter) -> Iterator[None]:
    """Let tasks of an estimator that is fitted in this block be rewritten.

    Nothing is rewritten if there are no folds to be told of.
    """
    splitter = _copy_splitter(estimator, y)
    backend, _ = get_active_backend()
    if splitter is None or not isinstance(backend, RewritingBackend):
        yield
        return
    given = estimator.cv
    vars(splitter)[_SPLIT] = _ToldSplit(splitter, rewriter.see_folds)
    estimator.cv, backend.rewriter = splitter, rewriter
    try:
        yield
    finally:
        estimator.cv, backend.rewriter = given, None
        rewriter.release()
        # The estimator may have kept it under another name.
        vars(splitter).pop(_SPLIT, None)


def _copy_splitter(estimator: Any, y: Any) -> Any:
    """Return a copy of an estimator's splitter; None if there is none."""
    kind = type(estimator)
    if not (is_search(estimator) or is_stacking(estimator) or _has_folds(estimator)):
        return None
    # One that selects features is no classifier itself.
    is_selector = kind.__name__ == "SequentialFeatureSelector"
    model = estimator.estimator if is_selector else estimator
    try:
        copied = copy.copy(check_cv(estimator.cv, y, classifier=is_classifier(model)))
        is_plain = _SPLIT not in vars(copied) and hasattr(type(copied), _SPLIT)
    except Exception:  # noqa: BLE001 - the estimator itself will say what is wrong
        is_plain = False
    if not is_plain:
        note(f"the folds of {kind.__name__} cannot be seen, so its tasks are as ever")
    return copied if is_plain else None


def _has_folds(estimator: Any) -> bool:
    """Tell if another estimator of scikit-learn sends folds to workers."""
    kind = type(estimator)
    if not kind.__module__.startswith("sklearn."):
        return False
    has_search = kind.__name__ in _WITH_SEARCH and estimator.cv is not None
    return has_search or kind.__name__ in _WITH_FOLDS


class _ToldSplit:
    """The method ``split`` of one splitter, which also tells what it has returned."""

    def __init__(self, splitter: Any, tell: FoldListener) -> None:
        self._splitter = splitter
        self._tell = tell

    def __call__(self, X: Any, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        split = _method_of(self._splitter)
        splits = [(train, test) for train, test in split(X, y, *args, **kwargs)]
        self._tell(X, y, splits)
        return iter(splits)

    def __deepcopy__(self, memo: Any) -> _ToldSplit:
        # A copy of the splitter, with a random state of its own, tells the same.
        return _ToldSplit(copy.deepcopy(self._splitter, memo), self._tell)

    def __reduce__(self) -> Any:
        # In a worker, it is the splitter's method again.
        return _method_of, (self._splitter,)


def _method_of(splitter: Any) -> Any:
    return types.MethodType(type(splitter).split, splitter)
