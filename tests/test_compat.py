"""Without a private name of another library: what is lost, and what is not."""

from __future__ import annotations

import builtins
import functools
import multiprocessing
import os
import queue
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import joblib
import joblib.parallel
import numpy as np
import pytest
import sklearn.utils
from joblib.externals.loky import process_executor
from scipy import sparse
from sklearn.ensemble import StackingRegressor
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    _search,
    cross_val_score,
    cross_validate,
)
from sklearn.model_selection import _validation as validation
from sklearn.tree import DecisionTreeRegressor

import skl_mmap
from skl_mmap import _compat
from skl_mmap.containers import container_of
from skl_mmap.copies import is_hookable
from skl_mmap.exceptions import FallbackWarning
from tests.backend.common import use_mmap

pd = pytest.importorskip("pandas")

Patch = pytest.MonkeyPatch
X = np.random.default_rng(0).normal(size=(4096, 4))
Y = X @ [1.0, 2.0, 3.0, 4.0]


def hide(monkeypatch: Patch, *names: str) -> None:
    """Pretend that nothing has attributes of these names, where _compat looks."""

    def get(item: Any, name: str, *default: Any) -> Any:
        if name in names and default:
            return default[0]
        if name in names:
            raise AttributeError(name)
        return getattr(item, name, *default)

    monkeypatch.setattr(_compat, "getattr", get, raising=False)


class OtherBatch(joblib.parallel.BatchedCalls):
    """joblib's batches, as they may be one day."""

    def __init__(self, tasks: Any, backend: Any, *args: Any) -> None:
        super().__init__(tasks, backend, *args)
        self._tasks = tuple(self.__dict__.pop("items"))

    def __call__(self) -> list[Any]:
        return [function(*args, **kwargs) for function, args, kwargs in self._tasks]

    def __reduce__(self) -> Any:
        return OtherBatch, (self._tasks, (self._backend, self._n_jobs))


class OtherQueue:
    """A queue that does not show what is in it."""

    def __init__(self) -> None:
        inner: queue.Queue[Any] = queue.Queue()
        self.put, self.get = inner.put, inner.get


def fit_quietly(estimator: Any, X: Any, y: Any, **others: Any) -> Any:
    """Do what scikit-learn's function does, without a word about progress."""
    return validation._fit_and_score(estimator, X, y, **others)


def fit_and_score(model: Any, data: Any, target: Any, **others: Any) -> Any:
    """Do what scikit-learn's function does, with other names for its arguments."""
    return validation._fit_and_score(model, data, target, **others)


def fit_and_predict(model: Any, data: Any, target: Any, *others: Any) -> Any:
    return validation._fit_and_predict(model, data, target, *others)


def rename_batches(monkeypatch: Patch) -> None:
    monkeypatch.setattr(joblib.parallel, "BatchedCalls", OtherBatch)


def hide_waiting_batches(monkeypatch: Patch) -> None:
    other = SimpleNamespace(Queue=OtherQueue, Empty=queue.Empty)
    monkeypatch.setattr(joblib.parallel, "queue", other)


def remove_depth(monkeypatch: Patch) -> None:
    monkeypatch.delattr(process_executor, "_CURRENT_DEPTH")


def rename_tasks(monkeypatch: Patch) -> None:
    monkeypatch.setattr(validation, "_fit_and_score", fit_and_score)


def hide_progress(monkeypatch: Patch) -> None:
    for module in (validation, _search):
        monkeypatch.setattr(module, "_fit_and_score", fit_quietly)


def rename_stacking(monkeypatch: Patch) -> None:
    monkeypatch.setattr(validation, "_fit_and_predict", fit_and_predict)


def remove_safe_indexing(monkeypatch: Patch) -> None:
    monkeypatch.delattr(sklearn.utils, "_safe_indexing")


def replace_numpy(monkeypatch: Patch) -> None:
    core = SimpleNamespace(_get_ndarray_c_version=lambda: 0x03000000)
    monkeypatch.setattr(_compat, "_find_numpy_core", lambda: core)


def replace_libc(monkeypatch: Patch) -> None:
    monkeypatch.setattr(os, "confstr", lambda name: None)
    _compat.is_glibc.cache_clear()


def rename_csr_state(monkeypatch: Patch) -> None:
    def look(item: Any) -> Any:
        state = dict(builtins.vars(item))
        # Of the empty matrix that is looked at, and not of what the constructor makes.
        return state if state.get("nnz") or state["data"].size else {}

    monkeypatch.setattr(_compat, "vars", look, raising=False)


def hiding(*names: str) -> Callable[[Patch], None]:
    return lambda monkeypatch: hide(monkeypatch, *names)


# For each feature how to take it away, and what else goes with it.
CASES: dict[str, tuple[Callable[[Patch], None], set[str]]] = {
    "mmap_mode": (hiding("_backend"), set()),
    "hashes": (hiding("save"), set()),
    "batches": (rename_batches, set()),
    "waiting batches": (hide_waiting_batches, set()),
    "tasks of one job": (hiding("_get_sequential_output"), set()),
    "threads of workers": (hiding("_prepare_worker_env"), set()),
    "two copies of loky": (hiding("_concrete_contexts"), set()),
    "depth of nesting": (remove_depth, set()),
    "broken pools": (hiding("_ExecutorFlags"), set()),
    "processes of loky": (hiding("_bootstrap"), set()),
    "tasks of scikit-learn": (rename_tasks, {"progress of searches"}),
    "progress of searches": (hide_progress, set()),
    "scorers of scikit-learn": (hiding("_MultimetricScorer"), set()),
    "tasks of stacking": (rename_stacking, {"tasks of scikit-learn"}),
    "callbacks of scikit-learn": (hiding("_skl_callbacks"), set()),
    "rows of other containers": (remove_safe_indexing, {"names in stacks"}),
    "names in stacks": (hiding("_make_indexable"), set()),
    "allocations of NumPy": (replace_numpy, set()),
    "allocators of NumPy": (hiding("get_handler_name"), set()),
    "blocks of glibc": (replace_libc, set()),
    "blocks of pandas": (hiding("_mgr"), {"columns of blocks"}),
    "columns of blocks": (hiding("mgr_locs"), set()),
    "nullable columns of pandas": (hiding("_mask"), set()),
    "arrays of dates and categories of pandas": (hiding("_ndarray"), set()),
    "labels of pandas": (hiding("_reindex_with_indexers"), set()),
    "rows of sparse matrices": (hiding("_get_index_dtype"), set()),
    "state of sparse matrices": (rename_csr_state, set()),
    "options of Python": (hiding("_args_from_interpreter_flags"), set()),
}


@pytest.fixture(autouse=True)
def forget_libc() -> Iterator[None]:
    yield
    _compat.is_glibc.cache_clear()


@pytest.fixture
def without(monkeypatch: Patch) -> Callable[[str], None]:
    def take_away(name: str) -> None:
        CASES[name][0](monkeypatch)

    return take_away


Without = Callable[[str], None]


def score_all() -> list[np.ndarray]:
    """Cross-validate arrays, frames and sparse matrices in the workers of a block."""
    frame = pd.DataFrame(X, columns=list("abcd"))
    inputs = (X, frame, sparse.csr_array(X * (X > 0)))
    return [cross_val_score(Ridge(), data, Y, cv=KFold(3)) for data in inputs]


@functools.cache
def score_alone() -> list[np.ndarray]:
    return score_all()


def test_nothing_is_lost_here() -> None:
    assert _compat.lost() == {}


def test_every_feature_has_a_case() -> None:
    assert CASES.keys() == _compat._features.keys()


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is expected there alone")
@pytest.mark.parametrize("name", CASES)
def test_the_loss_is_in_the_report_and_results_stay_right(
    name: str, without: Without
) -> None:
    expected = score_alone()
    library = _compat._features[name].library
    if library and library not in sys.modules:
        pytest.skip(f"{library} is of a later version")
    without(name)
    lost = _compat.lost()
    assert lost.keys() == {name, *CASES[name][1]}
    with skl_mmap.measure() as report, use_mmap():
        actual = score_all()
    for left, right in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(left, right)
    assert set(lost.values()) <= set(report.notes)
    for sentence in lost.values():
        assert sentence in str(report)


def test_nothing_is_said_of_libraries_that_are_not_there() -> None:
    program = (
        "import sys; from skl_mmap import _compat; del sys.modules['subprocess']; "
        "from unittest import mock\n"
        "with mock.patch.object(_compat, '_works', lambda _: False):\n"
        "    print(*_compat.lost(), sep='\\n')"
    )
    command = [sys.executable, "-c", program]
    printed = subprocess.run(command, check=True, capture_output=True, text=True)
    names = printed.stdout.splitlines()
    assert "batches" in names
    assert not {"blocks of pandas", "scorers of scikit-learn"} & set(names)


def test_sentences_name_the_library_and_its_version(without: Without) -> None:
    without("batches")
    (sentence,) = _compat.lost().values()
    assert sentence.startswith(f"joblib {joblib.__version__} is not known well enough")


class TestJoblib:
    def test_mmap_mode_is_told_from_the_default(self) -> None:
        assert _compat.explicit_mmap_mode() is None
        with joblib.parallel_config(mmap_mode="r"):
            assert _compat.explicit_mmap_mode() == "r"

    def test_without_its_configuration_that_is_not_known(
        self, without: Without
    ) -> None:
        without("mmap_mode")
        with joblib.parallel_config(mmap_mode="r"):
            assert _compat.explicit_mmap_mode() is None

    def test_without_the_tasks_rows_keep_their_order(self, without: Without) -> None:
        without("batches")
        with skl_mmap.measure() as report, use_mmap(row_order="any"):
            cross_val_score(Ridge(), X, Y, cv=KFold(3))
        assert {task.label for task in report.tasks} == {""}

    def test_without_the_loop_of_one_job_folds_are_copied(
        self, without: Without
    ) -> None:
        shared = np.asarray(skl_mmap.share(X))
        expected = cross_val_score(Ridge(), X, Y, cv=KFold(3))
        for is_there in (True, False):
            if not is_there:
                without("tasks of one job")
            with skl_mmap.measure() as report, use_mmap(n_jobs=1):
                scores = cross_val_score(Ridge(), shared, Y, cv=KFold(3))
            np.testing.assert_array_equal(scores, expected)
            assert bool(report.tasks) is is_there
            lost = [note for note in report.notes if "with one job" in note]
            assert bool(lost) is not is_there

    def test_without_a_limit_workers_start(self, without: Without) -> None:
        without("threads of workers")
        with use_mmap():
            assert joblib.Parallel()(joblib.delayed(abs)(-i) for i in range(3)) == [
                *range(3)
            ]


class TestLoky:
    def test_names_are_given_back(self) -> None:
        contexts = _compat._find_contexts()
        mine = contexts["loky"]
        with _compat.keeping_contexts():
            contexts["loky"] = contexts["loky_init_main"] = object()
        assert contexts["loky"] is mine
        assert multiprocessing.get_context("loky") is mine

    def test_without_the_names_nothing_is_done(self, without: Without) -> None:
        before = dict(_compat._find_contexts())
        without("two copies of loky")
        with _compat.keeping_contexts():
            pass
        assert before == multiprocessing.context._concrete_contexts

    def test_without_the_depth_workers_start(self, without: Without) -> None:
        without("depth of nesting")
        _compat.count_as_worker()
        assert not hasattr(process_executor, "_CURRENT_DEPTH")

    def test_the_depth_is_counted(self, monkeypatch: Patch) -> None:
        monkeypatch.setattr(process_executor, "_CURRENT_DEPTH", 3)
        _compat.count_as_worker()
        assert process_executor._CURRENT_DEPTH == 4


class TestScikitLearn:
    def notes_of_trees(self) -> list[str]:
        with skl_mmap.measure() as report, use_mmap():
            cross_validate(DecisionTreeRegressor(random_state=0), X, Y, cv=KFold(3))
        return [note for note in report.notes if "DecisionTreeRegressor" in note]

    @pytest.mark.parametrize("name", ["tasks of scikit-learn", "batches"])
    def test_without_its_tasks_layouts_stay(self, name: str, without: Without) -> None:
        assert "float32" in self.notes_of_trees()[0]
        without(name)
        assert self.notes_of_trees() == []

    def test_without_its_scorers_test_sets_stay(self, without: Without) -> None:
        def notes_of_search() -> list[str]:
            with skl_mmap.measure() as report, use_mmap():
                tree = DecisionTreeRegressor(random_state=0)
                scoring = ["r2", "neg_mean_squared_error"]
                cross_validate(tree, X, Y, cv=KFold(3), scoring=scoring)
            return [note for note in report.notes if "float32" in note]

        assert "was given X as" in notes_of_search()[0]
        without("scorers of scikit-learn")
        assert "was given train sets of X as" in notes_of_search()[0]

    def test_without_the_progress_of_searches_folds_are_copied(
        self, without: Without
    ) -> None:
        def reasons_of_search() -> set[str]:
            with skl_mmap.measure() as report, use_mmap(n_jobs=4):
                cv = KFold(3, shuffle=True, random_state=0)
                GridSearchCV(Ridge(), {"alpha": [1, 2]}, cv=cv, refit=False).fit(X, Y)
            return set(report.copy_reasons)

        assert "GATHERED" in reasons_of_search()
        without("progress of searches")
        assert "GATHERED" not in reasons_of_search()

    def test_without_its_fits_stacks_fit_themselves(self, without: Without) -> None:
        stack = StackingRegressor([("a", Ridge()), ("b", LinearRegression())], cv=3)
        expected = stack.fit(X, Y).predict(X)
        without("tasks of stacking")
        model = skl_mmap.Memmapped(stack, n_jobs=2, min_bytes=1).fit(X, Y)
        np.testing.assert_array_equal(model.predict(X), expected)
        assert any("is not known well enough" in note for note in model.report_.notes)

    @pytest.mark.parametrize("name", ["batches", "tasks of scikit-learn"])
    def test_without_its_tasks_stacks_are_in_one(
        self, name: str, without: Without
    ) -> None:
        stack = StackingRegressor([("a", Ridge()), ("b", LinearRegression())], cv=3)
        search = GridSearchCV(stack, {"a__alpha": [0.1, 1.0]}, cv=3)
        expected = search.fit(X, Y).cv_results_["mean_test_score"]
        without(name)
        model = skl_mmap.Memmapped(search, n_jobs=2, min_bytes=1).fit(X, Y)
        found = model.cv_results_["mean_test_score"]
        np.testing.assert_array_equal(found, expected)

    def test_without_its_callbacks_searches_refit_here(self, without: Without) -> None:
        search = GridSearchCV(Ridge(), {"alpha": [0.1, 1.0]}, cv=3)
        expected = search.fit(X, Y).predict(X)
        without("callbacks of scikit-learn")
        model = skl_mmap.Memmapped(
            search, n_jobs=2, min_bytes=1, single_fits="worker"
        ).fit(X, Y)
        np.testing.assert_array_equal(model.predict(X), expected)
        is_new = "sklearn.callback" in sys.modules
        notes = [note for note in model.report_.notes if "single_fits" in note]
        assert len(notes) == (2 if is_new else 0), "what is lost, and the refusal"

    @pytest.mark.parametrize(
        "values", [[5, 6, 7], np.arange(3), pd.Series([5, 6, 7], index=[9, 8, 7])]
    )
    def test_without_its_indexing_rows_are_the_same(
        self, values: Any, without: Without
    ) -> None:
        rows = np.array([2, 0])
        expected = _compat.select_rows(values, rows)
        without("rows of other containers")
        assert list(_compat.select_rows(values, rows)) == list(expected)

    def test_names_of_functions_in_stacks(self, without: Without) -> None:
        without("rows of other containers")
        assert "names in stacks" in _compat.lost()


class TestNumPy:
    def test_without_its_table_nothing_of_it_is_called(self, without: Without) -> None:
        without("allocations of NumPy")
        assert _compat.memory_handler_slot() is None
        assert not is_hookable()

    @pytest.mark.skipif(not is_hookable(), reason="another NumPy")
    def test_a_handler_of_another_version_is_not_used(self, monkeypatch: Patch) -> None:
        assert is_hookable()
        monkeypatch.setattr(_compat, "_HANDLER_VERSION", 2)
        assert not is_hookable()

    @pytest.mark.parametrize("name", ["allocators of NumPy", "blocks of glibc"])
    def test_without_its_allocator_nothing_is_shared_in_place(
        self, name: str, without: Without
    ) -> None:
        without(name)
        array = np.ones(1 << 20)
        with pytest.warns(FallbackWarning, match="shared as a copy and not in place"):
            shared = skl_mmap.share(array, inplace=True)
        np.testing.assert_array_equal(shared, array)

    @pytest.mark.parametrize("version", [None, "NetBSD 10", "musl 1.2"])
    def test_other_libraries_have_other_headers(
        self, version: str | None, monkeypatch: Patch
    ) -> None:
        header = (0).to_bytes(8, sys.byteorder) + (0x101002).to_bytes(8, sys.byteorder)
        monkeypatch.setattr(os, "confstr", lambda name: "glibc 2.36")
        _compat.is_glibc.cache_clear()
        assert _compat.mapped_chunk_bytes(header) == 0x101000
        monkeypatch.setattr(os, "confstr", lambda name: version)
        _compat.is_glibc.cache_clear()
        assert _compat.mapped_chunk_bytes(header) is None

    def test_a_system_that_does_not_know_the_question(self, monkeypatch: Patch) -> None:
        monkeypatch.delattr(os, "confstr")
        _compat.is_glibc.cache_clear()
        assert not _compat.is_glibc()


class TestTables:
    ROWS = np.r_[0:2000, 3000:4096]

    @pytest.mark.parametrize("kind", [pd.DataFrame, pd.Series])
    def test_without_blocks_frames_are_sent_whole(
        self, kind: Any, without: Without
    ) -> None:
        data = kind(X if kind is pd.DataFrame else Y)
        container = container_of(data)
        assert container is not None
        assert container.take_apart(data, 1) is not None
        without("blocks of pandas")
        assert _compat.block_values(data) == []
        assert _compat.single_block(data) is None
        assert container.take_apart(data, 1) is None

    def test_without_their_parts_nullable_columns_are_copied(
        self, without: Without
    ) -> None:
        values = pd.array(np.arange(4096), dtype="Int64")
        frame = pd.DataFrame({"a": values, "b": Y})
        shared = skl_mmap.share(frame)
        without("nullable columns of pandas")
        assert _compat.masked_parts(values) is None
        taken = shared.take(self.ROWS)
        pd.testing.assert_frame_equal(
            pd.DataFrame(taken), frame.take(self.ROWS), check_frame_type=False
        )

    def test_without_its_arrays_a_category_is_its_own(self, without: Without) -> None:
        values = pd.Categorical(["a", "b"])
        frame = pd.DataFrame({"a": values, "b": [1, 2]})
        container = container_of(frame)
        assert container is not None
        assert len(container.arrays(frame)) == 2
        without("arrays of dates and categories of pandas")
        assert _compat.backing_array(values) is values
        assert len(container.arrays(frame)) == 1

    def test_without_its_hook_rows_are_selected_by_label_as_pandas_does(
        self, without: Without
    ) -> None:
        class Frame(pd.DataFrame):
            pass

        without("labels of pandas")
        _compat.select_by_label(Frame)
        assert "_reindex_with_indexers" not in vars(Frame)
        frame = Frame({"a": [1, 2, 3]})
        pd.testing.assert_frame_equal(
            frame.loc[[2, 0]], pd.DataFrame(frame).loc[[2, 0]], check_frame_type=False
        )

    @pytest.mark.parametrize(
        "name", ["rows of sparse matrices", "state of sparse matrices"]
    )
    @pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csr_array])
    def test_without_its_ways_rows_of_sparse_matrices_are_right(
        self, name: str, kind: Any, without: Without
    ) -> None:
        matrix = kind(X * (X > 0))
        shared = skl_mmap.share(matrix)
        without(name)
        taken = shared[self.ROWS]
        expected = matrix[self.ROWS]
        assert taken.shape == expected.shape
        assert taken.indices.dtype == expected.indices.dtype
        assert (taken != expected).nnz == 0

    def test_facts_of_sparse_matrices_are_kept(self) -> None:
        matrix = sparse.csr_array(X * (X > 0))
        assert matrix.has_canonical_format
        assert _compat.csr_facts(matrix) == _compat.csr_facts()
        assert _compat.csr_facts(sparse.csr_array((2, 2))) == {}


def test_without_the_options_of_python_there_are_none(without: Without) -> None:
    assert isinstance(_compat.interpreter_flags(), list)
    without("options of Python")
    assert _compat.interpreter_flags() == []
