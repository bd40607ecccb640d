"""What other libraries offer no public name for, in one place."""

from __future__ import annotations

from joblib import parallel as joblib_parallel

__all__ = ["explicit_mmap_mode"]


def explicit_mmap_mode() -> str | None:
    """Return the `mmap_mode` set in ``parallel_config``, None if it is the default.

    ``Parallel`` passes "r" to every backend unless the user says otherwise, and "r"
    is a choice of the user for the backend "mmap", whose own default is "c". Only the
    configuration itself tells the one from the other (joblib 1.3 to 1.6).
    """
    default = joblib_parallel.default_parallel_config
    config = getattr(joblib_parallel._backend, "config", default)
    mode = config["mmap_mode"]
    return None if mode is default["mmap_mode"] else mode
