"""Advice as lines of code that can be pasted, in one spelling."""

from __future__ import annotations

from collections.abc import Mapping

# Without n_jobs, joblib runs one task at a time: the advice would have no workers.
_N_JOBS = 4


def backend_line(n_jobs: int | None = None, **options: object) -> str:
    """Write the line that runs a job with the backend "mmap".

    Parameters
    ----------
    n_jobs : int, default=None
        That of the job the advice is for; None where no job is known, for 4.
    **options : object
        Parameters of the backend, in the order in which they are to be written.

    Returns
    -------
    str
        A call of ``joblib.parallel_config``, as in ``with parallel_config(...):``.

    Examples
    --------
    >>> backend_line(8, row_order="any")
    'parallel_config("mmap", n_jobs=8, row_order="any")'
    >>> backend_line(layouts="auto", adopt=True)
    'parallel_config("mmap", n_jobs=4, layouts="auto", adopt=True)'
    """
    parameters = {"n_jobs": _N_JOBS if n_jobs is None else n_jobs, **options}
    return f'parallel_config("mmap", {parameters_of(parameters)})'


def parameters_of(options: Mapping[str, object]) -> str:
    """Write options as they stand in a call: ``row_order="any", adopt=True``."""
    return ", ".join(f"{name}={_quote(value)}" for name, value in options.items())


def _quote(value: object) -> str:
    """Write a value as code, text in double quotes as black and ruff do."""
    if isinstance(value, str) and repr(value)[1:-1] == value and '"' not in value:
        return f'"{value}"'
    return repr(value)
