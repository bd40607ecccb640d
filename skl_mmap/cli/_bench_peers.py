"""Who takes part in ``skl-mmap bench``: ways to run tasks of joblib in parallel."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from joblib import parallel_config

__all__ = ["PEERS", "Peer"]

_MLENS = (
    "its last release (0.2.3) needs Python 3.9 or older, and cannot run the same "
    "estimators"
)


@dataclass(frozen=True, slots=True)
class Peer:
    """A way to run tasks in parallel.

    Attributes
    ----------
    name : str
        What it is called in the table.
    enter : callable
        Takes the number of workers, and returns a context manager in which joblib's
        calls use them.
    peak_ratios : tuple of (float, float)
        Peak of the process tree in multiples of X: what does not depend on the number
        of workers, and what each worker adds at most.
    package : str or None
        What has to be installed for it, None if that is the case anyway.
    problem : str or None
        Why it cannot take part, whatever is installed.
    keeps_row_order : bool
        Whether train rows come in the order of the splitter.
    """

    name: str
    enter: Callable[[int], AbstractContextManager[Any]]
    peak_ratios: tuple[float, float]
    package: str | None = None
    problem: str | None = field(default=None, kw_only=True)
    keeps_row_order: bool = field(default=True, kw_only=True)

    @property
    def reason_to_skip(self) -> str | None:
        """Why it does not take part; None if it does."""
        if self.problem is not None:
            return self.problem
        if self.package is None or importlib.util.find_spec(self.package) is not None:
            return None
        return f"not installed (pip install {self.package})"


def _configure(backend: str, **options: Any) -> Callable[[int], Any]:
    """Make the `enter` of a backend that joblib knows by name."""

    def enter(n_jobs: int) -> AbstractContextManager[Any]:
        return parallel_config(backend=backend, n_jobs=n_jobs, **options)  # type: ignore[no-any-return]

    return enter


@contextlib.contextmanager
def _enter_dask(n_jobs: int) -> Iterator[None]:
    import dask
    from distributed import Client

    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        dask.config.set(temporary_directory=folder),
        Client(
            n_workers=n_jobs,
            threads_per_worker=1,
            memory_limit=0,
            dashboard_address=None,
        ),
        parallel_config(backend="dask", n_jobs=n_jobs),
    ):
        yield


@contextlib.contextmanager
def _enter_ray(n_jobs: int) -> Iterator[None]:
    # Or it writes a token to the user's home; it listens to this machine only.
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    import ray
    from ray.util.joblib import register_ray

    # Its workers import from where this process does, also from a checkout.
    variables = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    # Paths of its sockets may have 107 bytes, of which it takes some 75 itself.
    is_long = len(tempfile.gettempdir()) > 30 and os.path.isdir("/tmp")
    with tempfile.TemporaryDirectory(
        dir="/tmp" if is_long else None, ignore_cleanup_errors=True
    ) as folder:
        ray.init(
            num_cpus=n_jobs,
            include_dashboard=False,
            log_to_driver=False,
            runtime_env={"env_vars": variables},
            _temp_dir=folder,
        )
        try:
            register_ray()
            with parallel_config(backend="ray", n_jobs=n_jobs):
                yield
        finally:
            ray.shutdown()


PEERS = {
    peer.name: peer
    for peer in (
        Peer("threading", _configure("threading"), (1.0, 2.1)),
        Peer("loky", _configure("loky"), (2.0, 2.25)),
        Peer("mmap", _configure("mmap"), (2.0, 1.0)),
        Peer(
            "mmap-any",
            _configure("mmap", row_order="any"),
            (2.0, 1.0),
            keeps_row_order=False,
        ),
        Peer("dask", _enter_dask, (2.0, 2.25), "distributed"),
        Peer("ray", _enter_ray, (3.0, 2.5), "ray"),
        Peer("mlens", _configure("mlens"), (0.0, 0.0), problem=_MLENS),
    )
}
