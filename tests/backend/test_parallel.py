"""Everything else that joblib.Parallel promises."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import joblib
import numpy as np
import pytest
from joblib import Parallel, delayed
from loky.process_executor import TerminatedWorkerError
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold, cross_validate

from skl_mmap.backend import _lost_tasks
from skl_mmap.backend._lost_tasks import TasksInFlight
from skl_mmap.exceptions import LostWorkerError
from tests.backend.common import (
    SegmentWatch,
    bytes_of_memfds,
    call_each,
    numbered_rows,
    run_script,
    use_mmap,
)
from tests.waiting import wait_until

Calls = list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]]


def square(number: int) -> int:
    return number * number


def process_of(_: object = None) -> int:
    return os.getpid()


def total(X: Any) -> float:
    return float(X.sum())


def assert_workers_work() -> None:
    """The next call must be as good as the first."""
    X = numbered_rows(500, 30)
    assert call_each(total, X, n_tasks=3) == [total(X)] * 3


@pytest.mark.parametrize("n_jobs", [1, None, 2, -1, -2])
def test_any_number_of_jobs(n_jobs: int | None) -> None:
    with use_mmap(n_jobs=n_jobs):
        assert Parallel()(delayed(square)(i) for i in range(5)) == [0, 1, 4, 9, 16]


def test_one_job_runs_in_this_process() -> None:
    with use_mmap(n_jobs=1):
        assert call_each(process_of) == [os.getpid()] * 4
    with use_mmap(n_jobs=2):
        assert os.getpid() not in call_each(process_of)


def test_no_jobs_at_all_is_an_error() -> None:
    with use_mmap(n_jobs=0), pytest.raises(ValueError, match="n_jobs == 0"):
        call_each(process_of)


def test_no_tasks_give_no_results() -> None:
    with use_mmap():
        assert Parallel()([]) == []


@pytest.mark.parametrize("settings", [{"pre_dispatch": "all"}, {"batch_size": 10}])
def test_results_come_in_the_order_of_the_tasks(settings: dict[str, Any]) -> None:
    with use_mmap():
        results = Parallel(**settings)(delayed(square)(i) for i in range(60))
    assert results == [i * i for i in range(60)]


def return_after(seconds: float, value: Any) -> Any:
    time.sleep(seconds)
    return value


def test_generator_yields_results_in_order() -> None:
    X = numbered_rows(400, 64)
    with use_mmap():
        results = Parallel(return_as="generator")(
            delayed(return_after)(0.05 * (i == 0), X[i:]) for i in range(5)
        )
        for i, part in enumerate(results):
            np.testing.assert_array_equal(part, X[i:])


def return_last(folder: str, number: int, n_tasks: int) -> int:
    """Return the number; the first task does so when all others have."""
    while number == 0 and len(os.listdir(folder)) < n_tasks - 1:
        time.sleep(0.02)
    if number:
        Path(folder, str(number)).touch()
    return number


def test_unordered_generator_yields_what_is_ready(tmp_path: Path) -> None:
    with use_mmap():
        results = Parallel(return_as="generator_unordered", batch_size=1)(
            delayed(return_last)(str(tmp_path), i, 4) for i in range(4)
        )
        found = [next(results)]
        # The others are done, but their results may be on their way.
        found += results
    assert sorted(found) == [0, 1, 2, 3]
    assert found[0] != 0


def test_generator_may_be_read_after_the_block() -> None:
    X = numbered_rows(400, 64)
    with use_mmap():
        results = Parallel(return_as="generator")(delayed(total)(X) for _ in range(9))
    assert list(results) == [total(X)] * 9


@pytest.mark.parametrize("kind", ["generator", "generator_unordered"])
@pytest.mark.parametrize("n_read", [0, 1])
def test_abandoned_generator_leaves_nothing(kind: str, n_read: int) -> None:
    segments = SegmentWatch()
    X = numbered_rows(400, 64)
    with use_mmap():
        results = Parallel(return_as=kind, batch_size=1)(
            delayed(return_after)(0.05, X) for _ in range(20)
        )
        for _ in range(n_read):
            next(results)
        with pytest.warns(UserWarning, match="tasks .* have been cancelled"):
            results.close()
        assert_workers_work()
    del results
    assert segments.wait()


def test_timeout_is_an_error_and_the_next_call_works() -> None:
    with use_mmap():
        with pytest.raises(multiprocessing.TimeoutError):
            Parallel(timeout=0.5)(delayed(time.sleep)(60) for _ in range(2))
        assert_workers_work()


def describe_nested(X: Any) -> tuple[int, list[int], str, float]:
    inner = Parallel(n_jobs=2)
    pids = inner(delayed(process_of)(i) for i in range(3))
    backend = type(inner._backend).__name__
    sums = inner(delayed(total)(X[i::2]) for i in range(2))
    return os.getpid(), pids, backend, sum(sums)


def test_nested_calls_run_in_threads_of_the_worker() -> None:
    X = numbered_rows(500, 30)
    with use_mmap():
        outcomes = call_each(describe_nested, X)
    for pid, inner_pids, backend, found in outcomes:
        assert set(inner_pids) == {pid} != {os.getpid()}
        assert backend == "ThreadingBackend"
        assert found == total(X)


def run_nested_on_mmap(X: Any) -> list[float]:
    with joblib.parallel_config(backend="mmap", n_jobs=2):
        return list(Parallel()(delayed(total)(X[i::2]) for i in range(2)))


def test_workers_know_the_backend_too() -> None:
    X = numbered_rows(500, 30)
    with use_mmap():
        outcomes = call_each(run_nested_on_mmap, X, n_tasks=2)
    assert outcomes == [[total(X[::2]), total(X[1::2])]] * 2


def read_thread_limits() -> set[str | None]:
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return {os.environ.get(name) for name in names}


def test_threads_of_libraries_are_limited() -> None:
    with use_mmap(inner_max_num_threads=1):
        assert call_each(read_thread_limits, n_tasks=2) == [{"1"}] * 2
    with use_mmap(inner_max_num_threads=3):
        assert call_each(read_thread_limits, n_tasks=2) == [{"3"}] * 2


class TaskError(Exception):
    """An error of the user's, with an attribute."""

    def __init__(self, message: str = "", code: int = 0) -> None:
        super().__init__(message, code)
        self.code = code


class PickyError(Exception):
    """Cannot be made from its `args`, as pickle would."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


class LockedError(Exception):
    def __init__(self) -> None:
        super().__init__("locked")
        self.lock = threading.Lock()


def fail_with(kind: type[BaseException], *args: Any) -> None:
    raise kind(*args)


def fail_because(_: object) -> None:
    try:
        raise KeyError("the reason")
    except KeyError as error:
        raise TaskError("the consequence", 3) from error


def test_error_has_its_type_message_attributes_and_remote_traceback() -> None:
    with use_mmap():
        with pytest.raises(TaskError, match="the consequence") as caught:
            call_each(fail_because, numbered_rows(100, 64))
        assert caught.value.code == 3
        text = str(caught.value.__cause__)
        assert "in fail_because" in text
        assert "KeyError: 'the reason'" in text
        assert_workers_work()


def test_error_that_cannot_be_sent_is_named() -> None:
    with use_mmap():
        with pytest.raises(RuntimeError, match="LockedError") as caught:
            call_each(fail_with, LockedError)
        assert "in fail_with" in str(caught.value.__cause__)
        assert_workers_work()


def test_error_that_cannot_be_rebuilt_is_named() -> None:
    with use_mmap():
        with pytest.raises(Exception, match=r"PickyError|this and that") as caught:
            call_each(fail_with, PickyError, "this", "that")
        assert "in fail_with" in str(caught.value.__cause__)
        assert "this and that" in str(caught.value.__cause__)
        assert_workers_work()


def fail_while_unpickled() -> Any:
    raise TaskError("cannot be loaded")


class Unloadable:
    def __reduce__(self) -> Any:
        return fail_while_unpickled, ()


def make_unloadable() -> Unloadable:
    return Unloadable()


def test_argument_that_cannot_be_loaded_is_an_error_of_its_task() -> None:
    with use_mmap():
        with pytest.raises(TaskError, match="cannot be loaded") as caught:
            call_each(process_of, Unloadable())
        assert "in fail_while_unpickled" in str(caught.value.__cause__)
        assert_workers_work()


def test_result_that_cannot_be_loaded_is_an_error() -> None:
    with use_mmap():
        with pytest.raises(TaskError, match="cannot be loaded"):
            call_each(make_unloadable)
        assert_workers_work()


def test_leaving_the_interpreter_in_a_task_leaves_it_here() -> None:
    with use_mmap():
        with pytest.raises(SystemExit) as caught:
            call_each(sys.exit, 3)
        assert caught.value.code == 3
        assert_workers_work()


def test_argument_that_cannot_be_pickled_is_an_error() -> None:
    with use_mmap():
        with pytest.raises(Exception, match="pickle"):
            call_each(process_of, threading.Lock())
        assert_workers_work()


def test_result_that_cannot_be_pickled_is_an_error() -> None:
    with use_mmap():
        with pytest.raises(TypeError, match=r"cannot pickle .*lock"):
            call_each(threading.Lock)
        assert_workers_work()


def kill_this_process(X: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_killed_worker_is_an_error_and_the_next_call_works() -> None:
    with use_mmap():
        with pytest.raises(TerminatedWorkerError):
            call_each(kill_this_process, numbered_rows(500, 30))
        assert_workers_work()


class Mortal(Ridge):
    """Ends its process where the first row of its train set is that one."""

    def fit(self, X: Any, y: Any) -> Mortal:
        if X[0, 0] != 0.0:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(1.0)
        return self


@pytest.mark.parametrize(
    "expected",
    [
        TerminatedWorkerError,
        joblib.externals.loky.process_executor.TerminatedWorkerError,
        LostWorkerError,
    ],
    ids=["of loky", "of joblib", "of the package"],
)
def test_tasks_that_may_have_killed_a_worker_are_named(
    expected: type[Exception],
) -> None:
    X = numbered_rows(500, 30).astype(float)
    with use_mmap(), pytest.raises(expected) as caught:
        cross_validate(Mortal(), X, X[:, 0], cv=KFold(3), error_score="raise")
    text = str(caught.value)
    assert "Those that ran: Mortal" in text
    assert "SIGKILL(-9)" in text
    assert "are available now" in text
    copied = pickle.loads(pickle.dumps(caught.value))
    assert (type(copied), str(copied)) == (type(caught.value), text)


def test_kills_for_want_of_memory_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    kills = iter([3, 5])
    monkeypatch.setattr(_lost_tasks, "count_own_kills", lambda: next(kills))
    tasks = TasksInFlight(2)
    for number in range(4):
        batch = [(abs, (-1,), {"label": f"part {number}"})]
        tasks.add(Future(), SimpleNamespace(items=batch))
    text = str(tasks.explain(TerminatedWorkerError("")))
    assert (
        "Those that ran: part 0; part 1. Exit codes of the workers: not known" in text
    )
    assert "has ended 2 processes of this control group" in text


def lose_a_worker() -> None:
    try:
        with use_mmap():
            call_each(kill_this_process, numbered_rows(500, 30))
    except TerminatedWorkerError:
        return
    pytest.fail("nobody noticed")


def test_killed_worker_does_not_keep_what_was_shared() -> None:
    segments = SegmentWatch()
    lose_a_worker()
    assert segments.wait()


def test_killed_worker_between_two_calls_is_replaced() -> None:
    with use_mmap():
        [pid] = call_each(process_of, n_tasks=1)
        os.kill(pid, signal.SIGKILL)
        # The pool may notice before or after the next task was sent.
        with contextlib.suppress(TerminatedWorkerError):
            call_each(process_of)
        assert_workers_work()


def append_line(path: str, is_first: bool) -> None:
    if is_first:
        raise TaskError("the first of all")
    time.sleep(0.2)
    with open(path, "a", encoding="utf-8") as file:
        file.write("done\n")


def test_failing_task_stops_the_others(tmp_path: Path) -> None:
    path = tmp_path / "done"
    path.touch()
    with use_mmap():
        with pytest.raises(TaskError, match="the first of all"):
            # Half a minute's work, if nothing stopped it.
            Parallel(batch_size=1, pre_dispatch="all")(
                delayed(append_line)(str(path), i == 0) for i in range(300)
            )
        n_done = len(path.read_text(encoding="utf-8").splitlines())
        assert n_done < 150
        assert_workers_work()
        assert len(path.read_text(encoding="utf-8").splitlines()) == n_done


@pytest.mark.filterwarnings("ignore:A worker stopped while:UserWarning")
def test_pool_changes_its_size() -> None:
    sizes = []
    for n_jobs in (2, 3, 2):
        with use_mmap(n_jobs=n_jobs):
            parallel = Parallel(batch_size=1, pre_dispatch="all")
            pids = parallel(delayed(return_pid_after)(0.3) for _ in range(3 * n_jobs))
            sizes.append(len(set(pids)))
            assert_workers_work()
    assert sizes[1] <= 3
    assert max(sizes[0], sizes[2]) <= 2


def return_pid_after(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def test_local_functions_lambdas_and_partials_are_tasks() -> None:
    offset = 10

    def add(number: int) -> int:
        return number + offset

    class Local:
        value = 3

    with use_mmap():
        assert call_each(add, 1, n_tasks=2) == [11, 11]
        assert call_each(lambda: offset, n_tasks=2) == [10, 10]
        assert call_each(functools.partial(square, 4), n_tasks=2) == [16, 16]
        [returned] = call_each(Local, n_tasks=1)
        assert type(returned) is Local


def in_threads(*functions: Callable[[], Any]) -> list[Any]:
    """Run functions at the same time, and return what they return or raise."""
    results: list[Any] = [None] * len(functions)

    def run(place: int) -> None:
        try:
            results[place] = functions[place]()
        except BaseException as error:  # noqa: BLE001 - handed to the caller
            results[place] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def shut_down_pool_of_this_thread() -> None:
    import loky

    loky.get_reusable_executor().shutdown(wait=True)


def sum_in_workers(n_rows: int) -> list[float]:
    X = numbered_rows(n_rows, 30)
    try:
        with use_mmap():
            assert os.getpid() not in call_each(process_of)
            return call_each(total, X, n_tasks=3)
    finally:
        shut_down_pool_of_this_thread()


def test_call_from_a_thread() -> None:
    expected = total(numbered_rows(500, 30))
    assert in_threads(lambda: sum_in_workers(500)) == [[expected] * 3]


def test_threads_with_a_backend_each_do_not_disturb_each_other() -> None:
    expected = [[total(numbered_rows(n, 30))] * 3 for n in (500, 600)]
    found = in_threads(lambda: sum_in_workers(500), lambda: sum_in_workers(600))
    assert found == expected


def test_verbose_output_is_that_of_joblib(capsys: pytest.CaptureFixture[str]) -> None:
    with use_mmap():
        Parallel(verbose=10)(delayed(square)(i) for i in range(4))
    captured = capsys.readouterr()
    text = captured.out + captured.err
    assert "Using backend MmapBackend with 2 concurrent workers" in text
    assert "Done   4 out of   4" in text


def test_shared_memory_is_required_so_threads_are_used() -> None:
    with use_mmap():
        parallel = Parallel(require="sharedmem")
        assert set(parallel(delayed(process_of)(i) for i in range(3))) == {os.getpid()}


def send_sigint_to(pid: int) -> None:
    time.sleep(0.3)
    os.kill(pid, signal.SIGINT)
    time.sleep(600)


def test_interrupt_in_the_parent_stops_the_tasks() -> None:
    # A shell that starts the tests in the background has them ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with contextlib.ExitStack() as stack, use_mmap():
        stack.callback(signal.signal, signal.SIGINT, before)
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            call_each(send_sigint_to, os.getpid(), n_tasks=1)
        assert time.monotonic() - start < 300, "it waited for the task"
        assert_workers_work()


def changing_inputs(n_tasks: int) -> Iterator[Any]:
    for i in range(n_tasks):
        yield delayed(total)(np.full((200, 64), float(i)))


def test_inputs_that_are_made_one_by_one_are_freed_one_by_one() -> None:
    n_segments = []

    def watch() -> Iterator[Any]:
        for task in changing_inputs(40):
            n_segments.append(len(bytes_of_memfds()))
            yield task

    with use_mmap():
        results = Parallel(batch_size=1)(watch())
    assert results == [200 * 64.0 * i for i in range(40)]
    assert max(n_segments) < 20


MAIN_SCRIPT = """
import skl_mmap
from dataclasses import dataclass
from joblib import Parallel, delayed, parallel_config
import numpy as np

@dataclass
class Point:
    x: float

class TaskError(Exception):
    pass

def make(X):
    return Point(float(X.sum()))

def fail(X):
    raise TaskError("mine", 5)

if __name__ == "__main__":
    X = np.ones((1000, 200))
    with parallel_config(backend="mmap", n_jobs=2):
        assert Parallel()(delayed(make)(X) for _ in range(3)) == [Point(2e5)] * 3
        add = lambda point: point.x + 1
        assert Parallel()(delayed(add)(Point(i)) for i in range(2)) == [1, 2]
        try:
            Parallel()(delayed(fail)(X) for _ in range(3))
        except TaskError as error:
            assert error.args == ("mine", 5)
            assert "in fail" in str(error.__cause__)
            print("done")
"""


def test_functions_and_classes_of_the_main_script(tmp_path: Path) -> None:
    result = run_script(tmp_path, MAIN_SCRIPT)
    assert result.stdout == "done\n"
    assert result.stderr == ""


def count_when(rows: Any, is_awaited: bool, path: Path) -> int:
    """Return the number of some rows, when a file is there."""
    assert not is_awaited or wait_until(path.exists)
    return len(rows)


def test_index_arrays_of_tasks_that_wait_are_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "go"
    references: list[weakref.ref[Any]] = []

    def make_task(number: int) -> Any:
        rows = np.r_[0:50_000, 60_000 : 90_000 + number]
        references.append(weakref.ref(rows))
        return delayed(count_when)(rows, number == 1, path)

    with use_mmap():
        # The first task ends, the second one runs, and the third one waits.
        parallel = Parallel(batch_size=1, pre_dispatch=1, return_as="generator")
        results = parallel(map(make_task, range(3)))
        assert next(results) == 80_000
        assert wait_until(lambda: len(references) == 3)
        is_freed = wait_until(lambda: references[2]() is None)
        path.touch()
        assert is_freed
        assert list(results) == [80_001, 80_002]
