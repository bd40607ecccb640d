"""The first steps of a pipeline, fitted once for each fold of a search.

If all candidates of a search differ in later steps only, the steps before these do the
same for each of them, fold by fold::

    parent                                         worker
    search.fit
      cv.split(X, y) --> first steps, X, fold ---> fit, transform train and test set
      folds  <---------- as shared results --------
      tasks: for each candidate and fold
        the pipeline, with `SharedSteps` in place
        of its first steps, and numbers in place
        of the rows of X ------------------------> mapped results, later steps: a score
      refit: the whole pipeline on all of X

A task is scikit-learn's own, so that scores, errors and times are taken as ever. It
selects row numbers instead of rows, and these tell `SharedSteps` which set is meant.
"""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from joblib import effective_n_jobs, parallel_config
from sklearn import get_config
from sklearn.base import BaseEstimator, clone
from sklearn.pipeline import Pipeline
from sklearn.utils import get_tags
from sklearn.utils.parallel import Parallel, delayed

from skl_mmap._compat import (
    block_values,
    has_callbacks,
    is_fit_on_rows,
    is_handing_scorer,
    select_rows,
)
from skl_mmap._units import format_bytes
from skl_mmap.backend import MmapBackend, label_fold, name_estimator
from skl_mmap.containers import container_of, count_bytes
from skl_mmap.estimators._interception import Splits, TaskRewriter
from skl_mmap.estimators._single_fits import RandomStates, is_halving, is_search
from skl_mmap.memory import Placement
from skl_mmap.monitor import note

_TRAIN, _TEST, _SCORER = "train", "test", "scorer"
_PASSTHROUGH = "passthrough"
# Parameters that are named like that are False where an estimator may change its input.
_COPY = "copy"


def find_prefix(search: Any, fit_params: Iterable[str], n_jobs: int) -> int | str:
    """Count the first steps that all candidates have in common; or say why not."""
    reason = _find_refusal(search, n_jobs)
    if reason is not None:
        return reason
    pipeline = search.estimator
    names = [name for name, _ in pipeline.steps]
    changed = {parameter.partition("__")[0] for parameter in _searched(search)}
    if not changed <= {*names}:
        return f"candidates change {', '.join(sorted(changed - {*names}))}"
    n_steps = min([*map(names.index, changed), len(names) - 1])
    if all(step in (None, _PASSTHROUGH) for _, step in pipeline.steps[:n_steps]):
        return "no step comes before those that candidates change"
    first = {*names[:n_steps]}
    given = [name for name in fit_params if "__" in name]
    given = [name for name in given if name.partition("__")[0] in first]
    if given:
        return f"first steps have parameters of fit: {', '.join(given)}"
    return n_steps


def _find_refusal(search: Any, n_jobs: int) -> str | None:
    """Say why tasks of a search cannot be given the results of first steps."""
    if not is_search(search) or is_halving(search):
        return "only GridSearchCV and RandomizedSearchCV have the same folds throughout"
    pipeline = search.estimator
    if type(pipeline) is not Pipeline or not pipeline.steps:
        return "the estimator of the search is not scikit-learn's Pipeline"
    if n_jobs == 1:
        return "with one job, there are no workers (the pipeline's memory= helps there)"
    if has_callbacks(search) is not False:
        return "there are callbacks, which want to see each step"
    if get_config()["enable_metadata_routing"]:
        return "metadata routing decides what each step is given"
    if pipeline.memory is not None:
        return "the pipeline has a memory of its own"
    if getattr(pipeline, "transform_input", None) is not None:
        return "the pipeline transforms parameters of fit as well"
    if get_tags(pipeline).input_tags.pairwise:
        return "X is a matrix of pairs, of which columns are selected too"
    scorings = search.scoring
    scorings = scorings.values() if isinstance(scorings, Mapping) else [scorings]
    if any(callable(each) and not is_handing_scorer(each) for each in scorings):
        return "a function computes scores, and may look at X itself"
    parameters = pipeline.get_params(deep=True)
    copying = [name for name, value in parameters.items() if value is False]
    if any(map(_is_about_copies, (*copying, *_searched(search)))):
        return "a step may change its input in place"
    return None


def _is_about_copies(parameter: str) -> bool:
    return parameter.rpartition("__")[2].lower().startswith(_COPY)


def _searched(search: Any) -> list[str]:
    """Return the names of parameters that candidates have."""
    given = getattr(search, "param_grid", None)
    given = search.param_distributions if given is None else given
    grids = [given] if isinstance(given, Mapping) else given
    return [name for grid in grids for name in grid]


class _Fold(NamedTuple):
    """What first steps have made of one fold.

    Attributes
    ----------
    train, test : array-like
        The two sets, transformed: that one while the steps were fitted.
    scored_train : array-like or None
        The train set as the fitted steps transform it, where scores of it are asked
        for.
    """

    train: Any
    test: Any
    scored_train: Any

    @property
    def n_bytes(self) -> int:
        """Bytes of all three."""
        return sum(count_bytes(part) or 0 for part in self if part is not None)


class PrefixSharer(TaskRewriter):
    """Fits first steps once for each fold, and gives tasks what they have made.

    Parameters
    ----------
    search : GridSearchCV or RandomizedSearchCV
        It has first steps in common, see `find_prefix`.
    n_steps : int
        How many.
    make_backend : callable
        Returns a backend for the fits of first steps: that of the search is in use.
    """

    def __init__(
        self, search: Any, n_steps: int, make_backend: Callable[[], MmapBackend]
    ) -> None:
        self._search = search
        self._n_steps = n_steps
        self._make_backend = make_backend
        self._folds: list[_Fold] = []
        self._splits: Splits = []
        self._is_used = False
        self._rows: npt.NDArray[np.intp] = np.arange(0)

    def see_folds(self, X: Any, y: Any, splits: Splits) -> None:
        self.release()
        try:
            folds = self._transform(X, y, splits)
        except _RefusalError as error:
            note_refusal(str(error))
            return
        n_rows = X.shape[0] if hasattr(X, "shape") else len(X)
        self._folds, self._splits, self._rows = folds, splits, np.arange(n_rows)

    def _note_sharing(self) -> None:
        steps = self._search.estimator.steps[: self._n_steps]
        first = ", ".join(name for name, _ in steps)
        size = format_bytes(sum(fold.n_bytes for fold in self._folds))
        note(
            f"the first steps of the pipeline ({first}) were fitted once for each of "
            f"{len(self._folds)} folds, and all candidates share what they have made "
            f"({size})"
        )

    def _transform(self, X: Any, y: Any, splits: Splits) -> list[_Fold]:
        """Fit the first steps on each fold, the first one before all others."""
        if not splits:
            raise _RefusalError("there are no folds")
        tasks = [self._task(X, y, fold, splits) for fold in range(len(splits))]
        with parallel_config(self._make_backend()):
            # It says whether the others are worth it, and have room.
            folds = [_check(done) for done in self._run(tasks[:1])]
            n_bytes = (len(splits) - 1) * folds[0].n_bytes
            if not Placement.from_parameter("auto").has_room(n_bytes):
                raise _RefusalError(
                    f"there is no room for all transformed folds (another "
                    f"{format_bytes(n_bytes)})"
                )
            folds += map(_check, self._run(tasks[1:]))
        return folds

    def _run(self, tasks: list[Any]) -> list[Any]:
        # First steps need more memory than what comes after them, and there are fewer
        # of them now: half of the workers are enough.
        n_jobs = self._search.n_jobs
        at_once = max(effective_n_jobs(n_jobs) // 2, 1)
        parallel = Parallel(n_jobs=n_jobs, pre_dispatch=at_once, batch_size=1)
        done: list[Any] = parallel(tasks)
        return done

    def _task(self, X: Any, y: Any, fold: int, splits: Splits) -> Any:
        steps = clone(self._search.estimator).steps[: self._n_steps]
        last = [step for _, step in steps if step not in (None, _PASSTHROUGH)][-1]
        return delayed(transform_fold)(
            *(Pipeline(steps), X, y, *splits[fold]),
            scores_train=bool(self._search.return_train_score),
            label=label_fold(name_estimator(last), fold, len(splits)),
        )

    def rewrite(self, item: Any) -> Any:
        function, args, kwargs = item
        is_own = is_fit_on_rows(inspect.unwrap(function)) and len(args) == 3
        if not self._folds or not is_own or _SCORER not in kwargs:
            return item
        fold = self._find_fold(kwargs.get(_TRAIN), kwargs.get(_TEST))
        if fold is None or not is_handing_scorer(kwargs[_SCORER]):
            return item
        if not self._is_used:
            self._is_used = True
            self._note_sharing()
        estimator, _, y = args
        label = label_fold(name_estimator(estimator), fold, len(self._folds))
        shared = self._folds[fold]
        # Not by the names of the arguments: train sets keep their order in any case.
        rewritten = (function, estimator, self._rows, y, kwargs, shared, self._n_steps)
        return fit_on_transformed, rewritten, {"label": label}

    def _find_fold(self, train: Any, test: Any) -> int | None:
        """Return which fold the sets of a task are: they are the very same arrays."""
        for number, (its_train, its_test) in enumerate(self._splits):
            if train is its_train and test is its_test:
                return number
        return None

    def release(self) -> None:
        if self._folds and not self._is_used:
            note_refusal("the tasks of the search are not as they are known")
        self._folds, self._splits, self._is_used = [], [], False


def note_refusal(reason: str) -> None:
    """Tell whoever measures why each candidate fits all steps."""
    note(f"share_prefix=True has no effect: {reason}")


class _RefusalError(Exception):
    """Says why first steps are fitted by each candidate nevertheless."""


def _check(done: Any) -> _Fold:
    if isinstance(done, str):
        raise _RefusalError(done)
    return _Fold._make(done)


# Workers run the next two.
def transform_fold(
    steps: Pipeline,
    X: Any,
    y: Any,
    train_rows: Any,
    test_rows: Any,
    scores_train: bool,
    label: str,  # noqa: ARG001 - read by the backend, for the report
) -> tuple[Any, ...] | str:
    """Fit steps on a train set, and transform both sets; or say what is against it."""
    before = pickle.dumps(RandomStates.here())
    try:
        X_train, X_test = select_rows(X, train_rows), select_rows(X, test_rows)
        y_train = None if y is None else select_rows(y, train_rows)
        train = steps.fit_transform(X_train, y_train)
        test = steps.transform(X_test)
        scored_train = steps.transform(X_train) if scores_train else None
    except Exception as error:  # noqa: BLE001 - each candidate shall have this error
        return f"its first steps have raised {type(error).__name__}: {error}"
    if pickle.dumps(RandomStates.here()) != before:
        return "its first steps draw random numbers without a seed (random_state=None)"
    odd = next(filter(None, map(_find_oddity, (train, test, scored_train))), None)
    return (train, test, scored_train) if odd is None else odd


def _find_oddity(made: Any) -> str | None:
    """Say why something would look different after it was shared; None if not."""
    if made is None:
        return None
    arrays = [made] if isinstance(made, np.ndarray) else []
    if hasattr(made, "iloc"):
        blocks = block_values(made)
        arrays = [values for values in blocks if isinstance(values, np.ndarray)]
    if any(not array.flags.forc for array in arrays):
        return "its first steps make arrays with gaps between their elements"
    if container_of(made) is None:
        return f"its first steps make a {type(made).__name__}, which is not shared"
    return None


def fit_on_transformed(
    task: Any,
    estimator: Pipeline,
    rows: npt.NDArray[np.intp],
    y: Any,
    arguments: dict[str, Any],
    fold: tuple[Any, ...],
    n_steps: int,
    label: str,  # noqa: ARG001 - read by the backend, for the report
) -> Any:
    """Run a task of scikit-learn, for a pipeline whose first steps have run."""
    names = [name for name, _ in estimator.steps[:n_steps]]
    first: list[tuple[str, Any]] = [(name, _PASSTHROUGH) for name in names]
    first[0] = (names[0], SharedSteps(_Fold._make(fold)))
    estimator.steps = [*first, *estimator.steps[n_steps:]]
    return task(estimator, rows, y, **arguments)


class SharedSteps(BaseEstimator):  # type: ignore[misc]
    """Stands for fitted steps of a pipeline, and knows what they make of one fold.

    X is the numbers of the rows of either set.
    """

    def __init__(self, fold: Any) -> None:
        self.fold = fold

    def fit(self, X: Any, y: Any = None) -> SharedSteps:
        """Be taken for a transformer."""
        self.train_rows_ = X
        return self

    def fit_transform(self, X: Any, y: Any = None) -> Any:
        """Return the train set."""
        return self.fit(X, y).fold.train

    def transform(self, X: Any) -> Any:
        """Return the test set, or the train set as it is scored."""
        is_train = np.array_equal(X, self.train_rows_)
        if is_train and self.fold.scored_train is not None:
            return self.fold.scored_train
        if len(X) != self.fold.test.shape[0]:
            raise ValueError(
                f"{len(X)} rows are neither the train nor the test set of this fold, "
                "so there is nothing to return for them. Use share_prefix=False."
            )
        return self.fold.test
