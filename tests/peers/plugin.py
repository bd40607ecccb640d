"""A pytest plugin that runs somebody else's suite over one joblib backend.

Loaded with ``-p tests.peers.plugin`` into the process that runs the suite. What to do
is in a JSON file that the environment variable ``PEERS_CONFIG`` names, so that neither
the suite nor its configuration is edited:

========  =============================================================================
backend   "loky", or the name of a backend that importing ``skl_mmap`` registers
mode      "default": the backend takes loky's name and place, and is what ``Parallel()``
          uses; "forced": each test runs inside ``parallel_config(backend, n_jobs=2)``,
          and tasks that would have run one after the other are submitted too
log       file to append one JSON line per event to
left_out  patterns of test ids that are not run
only      patterns of the only tests to run; empty for all
done      ids of tests that are not run again
========  =============================================================================

In both modes arrays are shared from one byte on. What reaches the backend's `submit` in
this process is counted, as are the arrays that it shares. Every line of the log is
flushed, so that whoever reads it knows which test was running when the process died or
had to be killed.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import joblib
import joblib.parallel
import pytest

N_JOBS = 2

# What the forced contexts pass. Copy-on-write views are our default; joblib's, which is
# read-only, makes tests fail on loky that write to their input, or crashes the worker.
SHARING = {
    "loky": {"max_nbytes": 1, "mmap_mode": "c"},
    "mmap": {"min_bytes": 1},
}


class Peers:
    """What the plugin forces, counts and writes down."""

    def __init__(
        self,
        *,
        backend: str,
        mode: str,
        log: str,
        left_out: list[str],
        only: list[str],
        done: list[str],
    ) -> None:
        self.backend = backend
        self.mode = mode
        self.backend_class = _find_class(backend)
        self.submits = 0
        self.tasks = 0
        self.shared = 0
        self._left_out = [pattern_of(text) for text in left_out]
        self._only = [pattern_of(text) for text in only or ["*"]]
        self._done = frozenset(done)
        # Open until the process ends, however it ends.
        self._log = Path(log).open("a", encoding="utf-8")  # noqa: SIM115
        self._began = 0.0
        self._reported: dict[str, tuple[str, str]] = {}

        self._count_submits()
        if backend != "loky":
            self._count_shared()
        if mode == "default":
            self._take_the_place_of_loky()
        else:
            self._force_n_jobs()

    def _count_submits(self) -> None:
        submit: Callable[..., Any] = self.backend_class.submit

        @functools.wraps(submit)
        def counted(backend: Any, func: Any, callback: Any = None) -> Any:
            self.submits += 1
            self.tasks += len(func)
            return submit(backend, func, callback)

        self.backend_class.submit = counted

    def _count_shared(self) -> None:
        from skl_mmap.memory import Store

        share: Callable[..., Any] = Store.share

        @functools.wraps(share)
        def counted(store: Any, array: Any, **options: Any) -> Any:
            shared = share(store, array, **options)
            self.shared += shared is not None
            return shared

        Store.share = counted  # type: ignore[method-assign]

    def _take_the_place_of_loky(self) -> None:
        backends = joblib.parallel.BACKENDS
        # The suite parametrizes over all names that are registered when it is imported:
        # without our own, there are as many parameters as with loky.
        del backends[self.backend]
        backends["loky"] = self.backend_class
        # A frozen dataclass, but the only place that tells a size that a test sets from
        # the default.
        sentinel = joblib.parallel.default_parallel_config["max_nbytes"]
        object.__setattr__(sentinel, "default_value", 1)

    def _force_n_jobs(self) -> None:
        init: Callable[..., None] = joblib.Parallel.__init__
        unset = (None, 1, joblib.parallel.default_parallel_config["n_jobs"])

        @functools.wraps(init)
        def parallel_init(
            parallel: Any,
            n_jobs: Any = None,
            backend: Any = None,
            *args: Any,
            **kwargs: Any,
        ) -> None:
            active, _ = joblib.parallel.get_active_backend()
            # Not where a test, or scikit-learn, chose another backend.
            if (
                any(n_jobs is value for value in unset)
                and backend is None
                and kwargs.get("require") is None
                and type(active) is self.backend_class
            ):
                n_jobs = N_JOBS
            init(parallel, n_jobs, backend, *args, **kwargs)

        joblib.Parallel.__init__ = parallel_init

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        if self.mode == "default" and self.backend != "loky":
            for module in {getattr(item, "module", None) for item in items}:
                _rename_loky(module, self.backend_class)
        wanted = [
            item
            for item in items
            if any(pattern.fullmatch(item.nodeid) for pattern in self._only)
            and not any(pattern.fullmatch(item.nodeid) for pattern in self._left_out)
        ]
        self._write(event="collected", ids=[item.nodeid for item in wanted])
        wanted = [item for item in wanted if item.nodeid not in self._done]
        config.hook.pytest_deselected(items=list(set(items).difference(wanted)))
        items[:] = wanted

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item
    ) -> Generator[None, object, object]:
        self._write(event="started", id=item.nodeid)
        self._began = time.monotonic()
        if self.mode == "default":
            return (yield)
        # One context for each test, as a user would have one for each piece of work.
        sharing = SHARING[self.backend]
        with joblib.parallel_config(self.backend, n_jobs=N_JOBS, **sharing):
            return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid
        outcome = _name_outcome(report)
        so_far, _ = self._reported.get(name, ("passed", ""))
        if so_far == "passed" or outcome in ("failed", "error"):
            self._reported[name] = outcome, _describe_failure(report)
        if report.when == "teardown":
            outcome, message = self._reported.pop(name)
            seconds = round(time.monotonic() - self._began, 3)
            self._write(
                event="finished",
                id=name,
                outcome=outcome,
                message=message,
                seconds=seconds,
            )

    def pytest_sessionfinish(self) -> None:
        self._write(event="ended")

    def _write(self, **event: Any) -> None:
        counts = {"submits": self.submits, "tasks": self.tasks, "shared": self.shared}
        self._log.write(json.dumps({**event, **counts}) + "\n")
        self._log.flush()


def pattern_of(text: str) -> re.Pattern[str]:
    """Compile a pattern of test ids: the end of an id, with "*" for anything."""
    return re.compile(".*" + ".*".join(map(re.escape, text.split("*"))))


def _find_class(name: str) -> Any:
    """Return the class behind a backend name, registering it if need be."""
    if name != "loky":
        importlib.import_module("skl_mmap")
    factory = joblib.parallel.BACKENDS[name]
    return factory if isinstance(factory, type) else type(factory())


def _rename_loky(module: Any, backend_class: Any) -> None:
    """Let a test module's own names for loky mean the backend that is in its place.

    The suite asks for a backend by the name "loky", and then checks that it got the
    class that it imported under its name.
    """
    if hasattr(module, "LokyBackend"):
        module.LokyBackend = backend_class
    if hasattr(module, "get_reusable_executor"):
        # Of the package, which the backend has imported; joblib's own is a copy of it.
        module.get_reusable_executor = sys.modules["loky"].get_reusable_executor


def _name_outcome(report: pytest.TestReport) -> str:
    """Name an outcome as pytest's own summary does."""
    if hasattr(report, "wasxfail"):
        return "xfailed" if report.skipped else "xpassed"
    if report.failed:
        return "failed" if report.when == "call" else "error"
    return str(report.outcome)


def _describe_failure(report: pytest.TestReport) -> str:
    """Return what was raised, cut to a few lines; empty if nothing was."""
    if not report.failed:
        return ""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = str(report.longrepr) if crash is None else str(crash.message)
    return text.strip()[:500]


def pytest_configure(config: pytest.Config) -> None:
    """Force the backend before anything of the suite is imported."""
    settings = json.loads(Path(os.environ["PEERS_CONFIG"]).read_text(encoding="utf-8"))
    config.pluginmanager.register(Peers(**settings), "peers")
