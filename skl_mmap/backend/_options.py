"""The parameters of the backend, validated."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from skl_mmap._units import parse_bytes
from skl_mmap.exceptions import InvalidParameterError
from skl_mmap.memory import Placement, Settings
from skl_mmap.monitor import note

# What joblib.Parallel passes to every backend.
_JOBLIB_PARAMETERS = frozenset(
    {"context", "max_nbytes", "mmap_mode", "prefer", "require", "temp_folder"}
    | {"verbose"}
)
_JOBLIB_MAX_NBYTES = 1 << 20
_JOBLIB_MMAP_MODE = "r"
# Tasks would write to the data of all of them.
_SHARED_WRITES = ("r+", "w+")
# loky's workers wait with poll(), which counts milliseconds in an int: 24.8 days.
_LONGEST_TIMEOUT_SECONDS = 2_000_000.0
_INDEX_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Options:
    """What a user can set, with the defaults.

    Attributes
    ----------
    min_bytes : int or None, default=1 MiB
        Arrays of at least this size are shared; None shares nothing.
    mmap_mode : {"c", "r"}, default="c"
        Whether tasks may write to their view of an array, copy-on-write, or not.
    row_order : {"exact", "any"}, default="exact"
        Whether the rows of a train set keep their order, or may be put into one in
        which nearly all of them can be mapped.
    layouts : {"auto", "given"}, default="auto"
        Whether estimators that would convert X are handed one shared converted copy.
    store : {"auto", "memory", "disk"} or path-like, default="auto"
        Where shared arrays live.
    adopt : bool, default=False
        Whether arrays are shared in place, without a second copy.
    idle_worker_timeout : float, default=300
        Seconds after which idle workers stop; at most 2,000,000 (23 days).
    initializer : callable or None, default=None
        Called in each worker when it starts.
    initargs : tuple, default=()
        Its arguments.
    workers : {"auto", "spawn"}, default="auto"
        Whether workers are forked from a server, or new interpreters.
    preload : tuple of str, default=()
        Modules that the server imports, beside those that it finds itself.
    temp_folder : path-like or None, default=None
        joblib's parameter: where ``store="disk"`` makes its files.
    """

    min_bytes: int | None = 1 << 20
    mmap_mode: str = "c"
    row_order: str = "exact"
    layouts: str = "auto"
    store: Any = "auto"
    adopt: bool = False
    idle_worker_timeout: float = 300.0
    initializer: Callable[..., object] | None = None
    initargs: tuple[Any, ...] = ()
    workers: str = "auto"
    preload: tuple[str, ...] = ()
    temp_folder: Any = None

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> Options:
        """Validate keyword arguments of ``parallel_backend("mmap", ...)``.

        Raises
        ------
        InvalidParameterError
            If a name is not known, or a value cannot be used.
        """
        return cls().updated(parameters)

    def updated(self, parameters: Mapping[str, Any]) -> Options:
        """Return these options with some of them set anew, all validated."""
        unknown = parameters.keys() - set(_CHECKS)
        if unknown:
            raise InvalidParameterError(
                f"the backend 'mmap' has no parameter {min(unknown)!r}, so it "
                f"would be without effect. It has: {', '.join(sorted(_CHECKS))}."
            )
        checked = {name: _CHECKS[name](value) for name, value in parameters.items()}
        options = replace(self, **checked)
        options.placement  # noqa: B018 - a folder that cannot be used is an error now
        if options.preload and options.workers == "spawn":
            raise InvalidParameterError(
                f"preload={list(options.preload)!r} has no effect with "
                "workers='spawn', where each worker imports what it needs. Leave one "
                "of them out."
            )
        return options

    def for_call(self, parameters: Mapping[str, Any], mmap_mode: str | None) -> Options:
        """Return the options of one ``Parallel`` call.

        Parameters
        ----------
        parameters : mapping
            What ``Parallel`` passes to ``configure``: its own parameters and those
            of the backend that the user gave to ``Parallel`` itself.
        mmap_mode : str or None
            joblib's parameter, where the user set it in ``parallel_config``.
        """
        own = {k: v for k, v in parameters.items() if k not in _JOBLIB_PARAMETERS}
        max_nbytes = parameters.get("max_nbytes", _JOBLIB_MAX_NBYTES)
        # What holds in this call: the parameter of Parallel itself, if it has one.
        in_force = parameters.get("mmap_mode", mmap_mode or _JOBLIB_MMAP_MODE)
        if in_force in _SHARED_WRITES:
            # Libraries ask for it against read-only errors, which copies end as well.
            note(
                f"mmap_mode={in_force!r} of Parallel is taken as 'c': what a task "
                "writes stays its own, since it would change the data of others"
            )
            in_force = "c"
        if in_force is None:
            max_nbytes = None  # as with loky: arrays are pickled
        elif mmap_mode is not None or in_force != _JOBLIB_MMAP_MODE:
            own["mmap_mode"] = in_force
        if max_nbytes != _JOBLIB_MAX_NBYTES and "min_bytes" not in own:
            own["min_bytes"] = max_nbytes
        if parameters.get("temp_folder") is not None:
            own["temp_folder"] = parameters["temp_folder"]
        return self.updated(own) if own else self

    @property
    def placement(self) -> Placement:
        """Where segments live."""
        return Placement.from_parameter(self.store, self.temp_folder)

    @property
    def settings(self) -> Settings:
        """How arrays are handed to tasks."""
        default = Settings()
        if self.min_bytes is None:
            return default._replace(mmap_mode=self.mmap_mode)
        smallest = min(default.min_mapped_bytes, self.min_bytes)
        return Settings(self.mmap_mode, smallest, self.min_bytes)

    @property
    def min_index_bytes(self) -> int:
        """Index arrays of at least this size are sent as runs."""
        return min(_INDEX_BYTES, self.min_bytes or 0)


def _check_min_bytes(value: Any) -> int | None:
    return None if value is None else parse_bytes(value, name="min_bytes")


def _choice(name: str, **meanings: str) -> Callable[[Any], str]:
    """Return a check for a parameter that is one of some words."""

    def check(value: Any) -> str:
        if isinstance(value, str) and value in meanings:
            return value
        words = [f"{word!r} ({meaning})" for word, meaning in meanings.items()]
        raise InvalidParameterError(
            f"{name}={value!r} is not known. Pass {' or '.join(words)}."
        )

    return check


def _check_adopt(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise InvalidParameterError(
        f"adopt={value!r} does not say whether arrays may be shared in place. Pass "
        "True or False."
    )


def _check_timeout(value: Any) -> float:
    if isinstance(value, numbers.Real) and value is not True and float(value) > 0:
        return min(float(value), _LONGEST_TIMEOUT_SECONDS)
    raise InvalidParameterError(
        f"idle_worker_timeout={value!r} is not a time. Pass the seconds after which "
        "idle workers stop, more than 0."
    )


def _check_initializer(value: Any) -> Callable[..., object] | None:
    if value is None or callable(value):
        return value  # type: ignore[no-any-return]
    raise InvalidParameterError(
        f"initializer={value!r} cannot be called, so workers could not start. Pass a "
        "function, and its arguments as initargs."
    )


def _check_initargs(value: Any) -> tuple[Any, ...]:
    if isinstance(value, tuple | list):
        return tuple(value)
    raise InvalidParameterError(
        f"initargs={value!r} are not the arguments of a function, so workers could "
        f"not start. Pass a tuple, such as ({value!r},)."
    )


def _check_preload(value: Any) -> tuple[str, ...]:
    is_list = isinstance(value, tuple | list)
    if is_list and all(isinstance(name, str) and name for name in value):
        return tuple(value)
    raise InvalidParameterError(
        f"preload={value!r} does not name modules. Pass a list of their names, such as "
        "['my_package.models']."
    )


_CHECKS: dict[str, Any] = {
    "adopt": _check_adopt,
    "initializer": _check_initializer,
    "initargs": _check_initargs,
    "min_bytes": _check_min_bytes,
    "layouts": _choice(
        "layouts",
        auto="estimators that would convert X share one converted copy",
        given="tasks get X as it is",
    ),
    "mmap_mode": lambda value: Settings.from_parameter(value).mmap_mode,
    "row_order": _choice(
        "row_order",
        exact="same results as with loky, bit for bit",
        any="same train sets, in an order that needs no copy",
    ),
    "preload": _check_preload,
    "store": lambda value: value,
    "idle_worker_timeout": _check_timeout,
    "temp_folder": lambda value: value,
    "workers": _choice(
        "workers",
        auto="forked from a server that has imported the libraries, where that is safe",
        spawn="a new interpreter each",
    ),
}
