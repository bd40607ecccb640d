"""What the interpreter of a script under ``skl-mmap run`` does before the script.

::

    parent: SKL_MMAP_RUN={...} PYTHONPATH=<this folder>  python script.py ...
    child:  site imports sitecustomize, which is this file
       |      it takes back both variables, so that nothing else sees them
       |      and imports the environment's own sitecustomize, if there is one
       v
    the script runs, as ``__main__``, by Python itself
       |      when it imports joblib, the default backend is set
       v
    records of tasks, notes: appended to a file that the parent has open

Only the standard library is imported here, and skl_mmap with joblib's first import:
the script may still choose the number of BLAS threads before it imports NumPy.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.machinery
import importlib.util
import json
import os
import pickle
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

__all__ = ["FOLDER", "VARIABLE"]

VARIABLE = "SKL_MMAP_RUN"
FOLDER = os.path.dirname(os.path.abspath(__file__))
_SIGTERM = 15


class _JoblibFinder:
    """Calls a function once joblib has been imported, by whomever."""

    def __init__(self, then: Callable[[], None]) -> None:
        self._then = then
        self._is_asking = False

    def find_spec(
        self, name: str, path: Any = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find joblib as the other finders do, and prepare its loader."""
        if name != "joblib" or self._is_asking:
            return None
        self._is_asking = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._is_asking = False
        if spec is not None and spec.loader is not None:
            self._prepare(spec.loader)
        return spec

    def _prepare(self, loader: Any) -> None:
        # An attribute of this one loader: everything else about it stays as it is. A
        # spec may be asked for without an import, so that the finder stays until then.
        run = loader.exec_module

        def run_and_tell(module: ModuleType) -> None:
            del loader.exec_module
            run(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
                self._then()

        loader.exec_module = run_and_tell


def _set_backend(settings: dict[str, Any]) -> None:
    """Make a backend joblib's default, where the script names none."""
    import joblib

    name = settings["backend"]
    if name == "mmap":
        if importlib.util.find_spec("skl_mmap") is None:
            sys.path.append(settings["root"])
        import skl_mmap

        factory = functools.partial(skl_mmap._make_backend, **settings["parameters"])
        _listen(settings)
    else:
        factory = joblib.parallel.BACKENDS[name]
    joblib.register_parallel_backend(name, factory, make_default=True)
    if settings["n_jobs"] is not None:
        joblib.parallel_config(n_jobs=settings["n_jobs"])


def _listen(settings: dict[str, Any]) -> None:
    """Write what workers say about their tasks to the parent's file, as it comes."""
    import dataclasses

    from skl_mmap import monitor

    file = settings["file"]
    start = settings["start_seconds"]

    def write(record: object) -> None:
        if isinstance(record, monitor.TaskRecord):
            # The clock is the same in all processes.
            end = time.perf_counter() - start
            record = dataclasses.replace(record, end_seconds=end)
        # One write at the end of the file: threads and forks do not disturb each other.
        # A script that becomes a daemon closes whatever is open.
        with contextlib.suppress(OSError):
            os.write(file, pickle.dumps(record))

    monitor.listen(write)


def _end_with_parent(parent_pid: int, root: str) -> None:
    """Have the kernel end this process with ``skl-mmap``, even if that is killed."""
    if sys.platform == "linux":
        with contextlib.suppress(ImportError, OSError):
            # By its path: skl_mmap imports joblib, and may not be found.
            path = os.path.join(root, "skl_mmap", "_linux", "calls.py")
            spec = importlib.util.spec_from_file_location("_skl_mmap_calls", path)
            assert spec is not None
            assert spec.loader is not None
            calls = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(calls)
            calls.set_parent_death_signal(_SIGTERM)
            if os.getppid() != parent_pid:
                os.kill(os.getpid(), _SIGTERM)


def _take_back(settings: dict[str, Any]) -> None:
    """Make the environment and the path those that the script would have had."""
    del os.environ[VARIABLE]
    if settings["python_path"] is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = settings["python_path"]
    sys.path[:] = [entry for entry in sys.path if entry != FOLDER]
    sys.path_importer_cache.pop(FOLDER, None)


def _run_hidden_module() -> None:
    """Run the sitecustomize that this one was found instead of, if there is one."""
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize")
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


def _start() -> None:
    settings = json.loads(os.environ[VARIABLE])
    _take_back(settings)
    _end_with_parent(settings["parent_pid"], settings["root"])
    flags = os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0)
    settings["file"] = os.open(settings["path"], flags)
    if os.name == "posix":
        # Nothing is left, however the two processes end: the parent has it open.
        os.unlink(settings["path"])
    then = functools.partial(_set_backend, settings)
    sys.meta_path.insert(0, _JoblibFinder(then))
    _run_hidden_module()


# Not in a process that happens to import this module, as tools that read code do.
if __name__ == "sitecustomize" and VARIABLE in os.environ:
    _start()
